"""What every step of a sampler is: x0 from state and prediction, and the next state as a sum.

Every prediction type makes x0 a linear function of the state x and the prediction p, and the next state is linear in x,
x0, fresh noise z and the x0 of the step before, so a step is a row of seven numbers:

    x0     = x0_from_sample * x + x0_from_prediction * p        then clipped, if asked
    x_next = from_sample * x + from_x0 * x0 + from_noise * z + from_previous_x0 * x0 of the step before
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PredictionType = Literal["epsilon", "sample", "v_prediction"]


@dataclass(frozen=True)
class StepCoefficients:
    """The numbers of one step; made by `ddim_coefficients` or `dpmpp_2m_coefficients`."""

    x0_from_sample: float
    x0_from_prediction: float
    from_sample: float
    from_x0: float
    from_noise: float = 0.0  # 0: the step is deterministic and draws no noise
    from_previous_x0: float = 0.0  # 0: the step needs no history
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


def predicted_x0(
    sample: NDArray[np.float32],
    prediction: NDArray[np.floating],
    unconditional: NDArray[np.floating] | None,
    guidance: float | None,
    coefficients: StepCoefficients,
) -> NDArray[np.float32]:
    """x0 (N, ...) in a new array, guided and clipped; NaN passes through.

    With `unconditional`, the prediction under the null condition, and `guidance`: p = u + guidance (p - u) (Ho &
    Salimans 2022 eq. 6, with guidance = 1 + w). Arithmetic is float32.
    """
    x0 = prediction.astype(np.float32)
    if unconditional is not None and guidance is not None:
        base = unconditional.astype(np.float32, copy=False)
        x0 -= base
        x0 *= np.float32(guidance)
        x0 += base
    x0 *= np.float32(coefficients.x0_from_prediction)
    x0 += np.float32(coefficients.x0_from_sample) * sample
    if coefficients.clip != inf:
        np.clip(x0, -coefficients.clip, coefficients.clip, out=x0)
    return x0
