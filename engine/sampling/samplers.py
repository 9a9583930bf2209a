"""Samplers: one free function each, from initial noise to a clean latent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...kernels.ddim import ddim_coefficients, ddim_step
from ...kernels.dpmpp import dpmpp_2m_coefficients, dpmpp_2m_step
from ..bundle.manifest import PredictionType
from .schedule import Point

Latent = NDArray[np.float32]
# (state, timestep) -> prediction under the condition, prediction under the null condition or None without guidance
Denoise = Callable[[Latent, int], tuple[Latent, Latent | None]]
StepNoise = Callable[[int], Latent]  # draw k (from 1) -> noise like the state


def sample_ddim(
    denoise: Denoise,
    state: Latent,
    points: Sequence[Point],
    kind: PredictionType,
    *,
    guidance: float = 1.0,
    eta: float = 0.0,
    noise: StepNoise,
) -> Latent:
    """DDIM (Song et al. 2021, equation 12); eta 0 is deterministic, eta 1 is ancestral sampling."""
    for k, (now, then) in enumerate(pairwise(points), start=1):
        assert now.timestep is not None
        prediction, unconditional = denoise(state, now.timestep)
        step = ddim_coefficients(kind, now.alpha, now.sigma, then.alpha, then.sigma, eta)
        state = ddim_step(state, prediction, unconditional, guidance, step, noise(k) if step.from_noise else None)
    return state


def sample_dpmpp_2m(
    denoise: Denoise, state: Latent, points: Sequence[Point], kind: PredictionType, *, guidance: float = 1.0
) -> Latent:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2); first and last step are of first order."""
    previous: Latent | None = None
    before: tuple[float, float] | None = None
    for now, then in pairwise(points):
        assert now.timestep is not None
        prediction, unconditional = denoise(state, now.timestep)
        here = now.log_safe
        history = before if then.sigma > 0.0 else None
        step = dpmpp_2m_coefficients(kind, history, here, (then.alpha, then.sigma))
        state, previous = dpmpp_2m_step(state, prediction, unconditional, guidance, step, previous)
        before = here
    return state
