"""Where a sampler stops on the way from noise to a sample: timesteps and their (alpha, sigma)."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import NoiseSchedule, TimestepSpacing
from ..errors import UsageError

SMALLEST_SIGNAL = 2.0**-24  # stands for alphas_cumprod 0 where a sampler needs log(alpha), as in diffusers


@dataclass(frozen=True)
class NoiseLevel:
    """A state x = alpha x0 + sigma noise on the way; the end has timestep None, alpha 1, sigma 0."""

    timestep: int | None
    alpha: float
    sigma: float

    @property
    def log_safe(self) -> tuple[float, float]:
        """(alpha, sigma) with a logarithm of alpha, for samplers that step in log SNR."""
        signal = max(self.alpha**2, SMALLEST_SIGNAL)
        return sqrt(signal), sqrt(1.0 - signal)


def timesteps(train_steps: int, steps: int, spacing: TimestepSpacing) -> NDArray[np.int64]:
    """Falling training timesteps (steps,), as diffusers' schedulers space them (Lin et al. 2023, table 2).

    Raises:
        UsageError: `steps` outside 1..train_steps.
    """
    if not 1 <= steps <= train_steps:
        raise UsageError(f"--steps {steps}: allowed 1..{train_steps}")
    if spacing == "leading":
        return (np.arange(steps) * (train_steps // steps))[::-1].astype(np.int64)
    if spacing == "trailing":
        return np.round(train_steps - np.arange(steps) * (train_steps / steps)).astype(np.int64) - 1
    return np.linspace(0, train_steps - 1, steps).round()[::-1].astype(np.int64)


def noise_level(schedule: NoiseSchedule, timestep: int) -> NoiseLevel:
    """The level of a training timestep."""
    signal = schedule.alphas_cumprod[timestep]
    return NoiseLevel(timestep, sqrt(signal), sqrt(1.0 - signal))


def noise_levels(schedule: NoiseSchedule, steps: int) -> tuple[NoiseLevel, ...]:
    """The `steps` levels at which the denoiser is called, and the end.

    Raises:
        UsageError: `steps` outside of 1..the table's length.
    """
    visited = timesteps(len(schedule.alphas_cumprod), steps, schedule.timestep_spacing)
    return (*(noise_level(schedule, int(timestep)) for timestep in visited), NoiseLevel(None, 1.0, 0.0))
