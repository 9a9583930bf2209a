"""One step of DDIM sampling: guidance, prediction type, clipping and update in one pass (reference of `ddim_step.cu`).

Every prediction type makes x0 a linear function of the state x and the prediction p, and every DDIM update is linear in
x, x0 and fresh noise, so a step is five numbers:

    x0     = x0_from_sample * x + x0_from_prediction * p        then clipped, if asked
    x_prev = from_sample * x + from_x0 * x0 + from_noise * z
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PredictionType = Literal["epsilon", "sample", "v_prediction"]


@dataclass(frozen=True)
class DdimCoefficients:
    """The numbers of one step; make them with `ddim_coefficients`."""

    x0_from_sample: float
    x0_from_prediction: float
    from_sample: float
    from_x0: float
    from_noise: float = 0.0  # 0: the step is deterministic and draws no noise
    clip: float = inf  # x0 is clipped to -clip..clip


def x0_coefficients(prediction_type: PredictionType, alpha: float, sigma: float) -> tuple[float, float]:
    """(factor of x, factor of the prediction) that give x0, where x = alpha x0 + sigma epsilon, alpha² + sigma² = 1.

    epsilon: Ho et al. 2020 eq. 15; v = alpha epsilon - sigma x0: Salimans & Ho 2022 appendix D.
    """
    if prediction_type == "epsilon":
        return 1.0 / alpha, -sigma / alpha
    if prediction_type == "sample":
        return 0.0, 1.0
    if prediction_type == "v_prediction":
        return alpha, -sigma
    raise ValueError(f"prediction type {prediction_type!r} is not one of epsilon, sample, v_prediction")


def ddim_coefficients(
    prediction_type: PredictionType,
    alpha: float,
    sigma: float,
    alpha_prev: float,
    sigma_prev: float,
    eta: float = 0.0,
    clip: float | None = None,
) -> DdimCoefficients:
    """Coefficients of the step from (alpha, sigma) to (alpha_prev, sigma_prev), in float64.

    alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar). Song et al. 2021 (DDIM): eq. 12 is the update, eq. 16 the
    noise's deviation for `eta` (0 DDIM, 1 DDPM). epsilon follows from the clipped x0, so that the two agree.
    """
    x0_from_sample, x0_from_prediction = x0_coefficients(prediction_type, alpha, sigma)
    noise = eta * sigma_prev / sigma * sqrt(max(0.0, 1.0 - (alpha / alpha_prev) ** 2))
    direction = sqrt(max(0.0, sigma_prev**2 - noise**2))
    return DdimCoefficients(
        x0_from_sample=x0_from_sample,
        x0_from_prediction=x0_from_prediction,
        from_sample=direction / sigma,
        from_x0=alpha_prev - direction * alpha / sigma,
        from_noise=noise,
        clip=inf if clip is None else clip,
    )


def ddim_step(
    sample: NDArray[np.float32],
    prediction: NDArray[np.floating],
    unconditional: NDArray[np.floating] | None,
    guidance: float,
    coefficients: DdimCoefficients,
    noise: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The next state (N, ...) float32 from the state `sample` and the denoiser's output, both (N, ...).

    With `unconditional`, the prediction under the null condition, p = u + guidance (p - u) (Ho & Salimans 2022 eq. 6,
    with guidance = 1 + w); without it `guidance` is not used. `noise` is needed where `from_noise` is not 0, else
    ValueError. Arithmetic is float32; nothing is changed in place.
    """
    x0 = predicted_x0(sample, prediction, unconditional, guidance, coefficients)
    x0 *= np.float32(coefficients.from_x0)
    x0 += np.float32(coefficients.from_sample) * sample
    if coefficients.from_noise:
        if noise is None:
            raise ValueError("this step adds noise (eta > 0): give `noise`")
        x0 += np.float32(coefficients.from_noise) * noise
    return x0


def predicted_x0(
    sample: NDArray[np.float32],
    prediction: NDArray[np.floating],
    unconditional: NDArray[np.floating] | None,
    guidance: float,
    coefficients: DdimCoefficients,
) -> NDArray[np.float32]:
    """x0 (N, ...) in a new array, guided and clipped; NaN passes through."""
    x0 = prediction.astype(np.float32)
    if unconditional is not None:
        base = unconditional.astype(np.float32, copy=False)
        x0 -= base
        x0 *= np.float32(guidance)
        x0 += base
    x0 *= np.float32(coefficients.x0_from_prediction)
    x0 += np.float32(coefficients.x0_from_sample) * sample
    if coefficients.clip != inf:
        np.clip(x0, -coefficients.clip, coefficients.clip, out=x0)
    return x0
