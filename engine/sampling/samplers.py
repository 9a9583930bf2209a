"""Samplers: one free function each, from a noisy state to a clean latent along a plan.

A new one needs its rows in `plan.py`, its function here, its entry in `SAMPLERS`, and a name in the manifest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...kernels.ddim import ddim_step
from ...kernels.dpmpp import dpmpp_2m_step
from ..bundle.manifest import SamplerName
from .plan import SamplingPlan

Latent = NDArray[np.float32]  # (N, C, ...)
# (state, timestep) -> prediction under the condition, prediction under the null condition or None without guidance
Denoise = Callable[[Latent, float], tuple[Latent, Latent | None]]
StepNoise = Callable[[int], Latent]  # draw -> noise like the state


def sample_ddim(denoise: Denoise, state: Latent, plan: SamplingPlan, noise: StepNoise) -> Latent:
    """DDIM (Song et al. 2021, equation 12); eta 0 is deterministic, eta 1 is ancestral sampling."""
    for step, (timestep, row) in enumerate(zip(plan.timesteps, plan.coefficients, strict=True)):
        prediction, unconditional = denoise(state, timestep)
        fresh = noise(plan.draw(step)) if row.from_noise else None
        state = ddim_step(state, prediction, unconditional, plan.guidance, row, fresh)
    return state


def sample_multistep(denoise: Denoise, state: Latent, plan: SamplingPlan, _noise: StepNoise) -> Latent:
    """Steps that see the x0 of the one before and draw no noise: DPM-Solver++(2M) (Lu et al. 2022), fitted ones."""
    previous: Latent | None = None
    for timestep, row in zip(plan.timesteps, plan.coefficients, strict=True):
        prediction, unconditional = denoise(state, timestep)
        state, previous = dpmpp_2m_step(state, prediction, unconditional, plan.guidance, row, previous)
    return state


SAMPLERS: dict[SamplerName, Callable[[Denoise, Latent, SamplingPlan, StepNoise], Latent]] = {
    "ddim": sample_ddim,
    "dpmpp-2m": sample_multistep,
    "fitted": sample_multistep,
}
