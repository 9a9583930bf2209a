"""The forward process: its table, noised samples and what the denoiser is asked to predict."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.bundle.manifest import NoiseSchedule, PredictionType
from .config import ScheduleConfig
from .prefetch import to_device

TIME_BINS = 4  # parts of the schedule that losses are told of apart


def make_schedule(config: ScheduleConfig) -> NoiseSchedule:
    """Scaled-linear betas (Rombach et al. 2022), at will with zero terminal SNR (Lin et al. 2023, algorithm 1)."""
    betas = np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.steps, dtype=np.float64) ** 2
    root = np.sqrt(np.cumprod(1.0 - betas))
    name = f"scaled-linear {config.beta_start} to {config.beta_end}, {config.steps} steps"
    if config.zero_terminal_snr:
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        name += ", rescaled to zero terminal SNR"
    table = tuple(float(v) for v in root**2)
    return NoiseSchedule(name, config.prediction_type, config.timestep_spacing, table)


def add_noise(clean: Tensor, noise: Tensor, signal: Tensor) -> Tensor:
    """z_t = sqrt(a) z_0 + sqrt(1 - a) e for alphas_cumprod a (N,): Ho et al. 2020, equation 4."""
    a = signal.reshape(-1, *[1] * (clean.dim() - 1))
    return a.sqrt() * clean + (1.0 - a).sqrt() * noise


def prediction_target(clean: Tensor, noise: Tensor, signal: Tensor, kind: PredictionType) -> Tensor:
    """Noise, clean sample, or velocity sqrt(a) e - sqrt(1 - a) z_0 (Salimans & Ho 2022)."""
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return clean
    a = signal.reshape(-1, *[1] * (clean.dim() - 1))
    return a.sqrt() * noise - (1.0 - a).sqrt() * clean


def table_tensor(schedule: NoiseSchedule, device: torch.device) -> Tensor:
    """alphas_cumprod as float32 on a device."""
    table: NDArray[np.float32] = np.asarray(schedule.alphas_cumprod, np.float32)
    return to_device(torch.from_numpy(table), device)


def by_time(errors: Tensor, timesteps: Tensor, steps: int) -> dict[str, Tensor]:
    """Mean error of each part of the schedule, `t1` (least noise) to `t4`; NaN where no time falls.

    `errors` (N, ...) of elements that were noised at `timesteps` (N,), of `steps` in all.
    """
    means, part = errors.detach().flatten(1).mean(1), (timesteps * TIME_BINS / steps).long()
    return {f"t{number + 1}": means[part == number].mean() for number in range(TIME_BINS)}
