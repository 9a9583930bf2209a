"""One step of DPM-Solver++(2M), the multistep solver that keeps the x0 of the step before (reference of
`dpmpp_2m_step.cu`).
"""

from __future__ import annotations

from math import expm1, inf, log

import numpy as np
from numpy.typing import NDArray

from .step import PredictionType, StepCoefficients, predicted_x0, x0_coefficients


def dpmpp_2m_coefficients(
    prediction_type: PredictionType,
    before: tuple[float, float] | None,
    now: tuple[float, float],
    then: tuple[float, float],
    clip: float | None = None,
) -> StepCoefficients:
    """Coefficients of the step from `now` to `then`, each (alpha, sigma), in float64.

    `before` is where the step before came from; None makes the step first order, as the first has to be and as the last
    should be where its sigma is 0. Lu et al. 2022 (DPM-Solver++) algorithm 2 and eq. 12, in the midpoint form that
    diffusers' DPMSolverMultistepScheduler computes; with lambda = log(alpha / sigma), h = lambda_then - lambda_now,
    r = (lambda_now - lambda_before) / h: x = sigma_then / sigma_now x - alpha_then (e^-h - 1) D,
    D = (1 + 1 / 2r) x0 - 1 / 2r x0_before.
    """
    x0_from_sample, x0_from_prediction = x0_coefficients(prediction_type, *now)
    h = _log_snr(then) - _log_snr(now)
    weight = -then[0] * expm1(-h)
    history = 0.0
    if before is not None:
        if h == inf:
            raise ValueError("a step to sigma 0 has no second order: give before=None")
        history = h / (2.0 * (_log_snr(now) - _log_snr(before)))
    return StepCoefficients(
        x0_from_sample=x0_from_sample,
        x0_from_prediction=x0_from_prediction,
        from_sample=then[1] / now[1],
        from_x0=weight * (1.0 + history),
        from_previous_x0=-weight * history,
        clip=inf if clip is None else clip,
    )


def dpmpp_2m_step(
    sample: NDArray[np.float32],
    prediction: NDArray[np.floating],
    unconditional: NDArray[np.floating] | None,
    guidance: float | None,
    coefficients: StepCoefficients,
    previous_x0: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(next state, x0 to hand to the next step), both (N, ...) float32; arguments as in `ddim.ddim_step`.

    ValueError where `from_previous_x0` is not 0 and `previous_x0` is missing.
    """
    x0 = predicted_x0(sample, prediction, unconditional, guidance, coefficients)
    state = np.float32(coefficients.from_x0) * x0
    state += np.float32(coefficients.from_sample) * sample
    if coefficients.from_previous_x0:
        if previous_x0 is None:
            raise ValueError("a second-order step needs `previous_x0`, the x0 that the step before returned")
        state += np.float32(coefficients.from_previous_x0) * previous_x0
    return state, x0


def _log_snr(point: tuple[float, float]) -> float:
    """lambda = log(alpha / sigma) of a point of the schedule; infinite where sigma is 0."""
    alpha, sigma = point
    return inf if sigma == 0.0 else log(alpha) - log(sigma)
