"""One step of DDIM sampling: guidance, prediction type, clipping, update in one pass (reference of `ddim_step.cu`)."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from .step import PredictionType, StepCoefficients, predicted_x0, x0_coefficients


def ddim_coefficients(
    prediction_type: PredictionType,
    alpha: float,
    sigma: float,
    alpha_prev: float,
    sigma_prev: float,
    eta: float = 0.0,
    clip: float | None = None,
) -> StepCoefficients:
    """Coefficients of the step from (alpha, sigma) to (alpha_prev, sigma_prev), in float64.

    alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar). Song et al. 2021 (DDIM): eq. 12 is the update, eq. 16 the
    noise's deviation for `eta` (0 DDIM, 1 DDPM). epsilon follows from the clipped x0, so that the two agree.
    """
    x0_from_sample, x0_from_prediction = x0_coefficients(prediction_type, alpha, sigma)
    noise = eta * sigma_prev / sigma * sqrt(max(0.0, 1.0 - (alpha / alpha_prev) ** 2))
    direction = sqrt(max(0.0, sigma_prev**2 - noise**2))
    return StepCoefficients(
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
    guidance: float | None,
    coefficients: StepCoefficients,
    noise: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The next state (N, ...) float32 from the state `sample` and the denoiser's output, both (N, ...).

    Guidance as in `predicted_x0`; without `unconditional` it is not used. `noise` is needed where `from_noise` is not
    0, else ValueError. Arithmetic is float32; nothing is changed in place.
    """
    x0 = predicted_x0(sample, prediction, unconditional, guidance, coefficients)
    x0 *= np.float32(coefficients.from_x0)
    x0 += np.float32(coefficients.from_sample) * sample
    if coefficients.from_noise:
        if noise is None:
            raise ValueError("this step adds noise (eta > 0): give `noise`")
        x0 += np.float32(coefficients.from_noise) * noise
    return x0
