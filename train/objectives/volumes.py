"""Stages `mask`, `denoiser` and `distill` of the mask-first form: velocities of whole volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...engine.bundle.manifest import NoiseSchedule
from ..diffusion import add_noise, by_time, prediction_target, table_tensor
from ..prefetch import to_device


@dataclass(frozen=True)
class VolumeBatch:
    """Volumes with noise of each one's own time, and what the denoiser is told of them."""

    noisy: Tensor  # (N, C, D, H, W)
    wanted: Tensor  # what the denoiser is to predict, like `noisy`
    timestep: Tensor  # (N,) float32
    told: tuple[Tensor, ...]  # inputs between the timestep and the condition mask
    keep: Tensor  # (N,) float32: 0 where the condition is dropped


class Volumes(Protocol):
    """Draws clean volumes and what is told of them."""

    def draw(self, size: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], tuple[Tensor, ...]]: ...


class NoisyVolumes:
    """Training batches of a denoiser: times stratified over the batch, conditions dropped at random."""

    def __init__(self, volumes: Volumes, schedule: NoiseSchedule, dropout: float) -> None:
        self.volumes, self.schedule, self.dropout = volumes, schedule, dropout

    @property
    def steps(self) -> int:
        """Timesteps of the schedule."""
        return len(self.schedule.alphas_cumprod)

    def draw(self, size: int, device: torch.device, generator: np.random.Generator) -> VolumeBatch:
        """`size` volumes; every batch holds early, middle and late times."""
        drawn, told = self.volumes.draw(size, generator)
        clean = to_device(torch.from_numpy(drawn), device)
        times = ((generator.permutation(size) + generator.random(size)) / size * self.steps).astype(np.int64)
        keep = to_device(torch.from_numpy((generator.random(size) >= self.dropout).astype(np.float32)), device)
        timestep = to_device(torch.from_numpy(times), device)
        signal = table_tensor(self.schedule, device)[timestep]
        noise = torch.randn_like(clean)
        wanted = prediction_target(clean, noise, signal, self.schedule.prediction_type)
        told = tuple(to_device(tensor, device) for tensor in told)
        return VolumeBatch(add_noise(clean, noise, signal), wanted, timestep.float(), told, keep)


class VolumeObjective:
    """Mean squared error of what the schedule predicts, at uniform timesteps, channels weighted by (C,) of mean 1.

    A channel's optimum does not depend on its weight; what the network attends to first does.
    """

    def __init__(self, volumes: NoisyVolumes, batch_size: int, weights: Tensor | None = None) -> None:
        self.volumes, self.batch_size, self.weights = volumes, batch_size, weights

    def __call__(
        self, module: nn.Module, step: int, generator: np.random.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        batch = self.volumes.draw(self.batch_size, next(module.parameters()).device, generator)
        predicted = module(batch.noisy, batch.timestep, *batch.told, batch.keep).float()
        error = (predicted - batch.wanted).square()
        times = {} if module.training else by_time(error, batch.timestep, self.volumes.steps)
        if self.weights is None:
            return error.mean(), times
        weighted = error * to_device(self.weights, error.device)[:, None, None, None]
        return weighted.mean(), {"plain": error.detach().mean(), **times}


class GuidedObjective:
    """The guided prediction of a frozen teacher in one call (Meng et al. 2023, stage one, at a single guidance).

    Where the condition is dropped the target is the teacher's unconditional prediction.
    """

    def __init__(
        self,
        volumes: NoisyVolumes,
        batch_size: int,
        teacher: nn.Module,
        guidance: float,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.volumes, self.batch_size = volumes, batch_size
        self.teacher, self.guidance, self.autocast = teacher, guidance, autocast

    def __call__(
        self, module: nn.Module, step: int, generator: np.random.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        batch = self.volumes.draw(self.batch_size, next(module.parameters()).device, generator)
        with torch.no_grad(), self.autocast():
            wanted = self.guided(batch)
        predicted = module(batch.noisy, batch.timestep, *batch.told, batch.keep).float()
        error = (predicted - wanted).square()
        return error.mean(), {} if module.training else by_time(error, batch.timestep, self.volumes.steps)

    def guided(self, batch: VolumeBatch) -> Tensor:
        """The teacher's prediction with guidance where the condition is kept, without a condition elsewhere."""
        told = (batch.noisy, batch.timestep, *batch.told)
        unconditional = self.teacher(*told, torch.zeros_like(batch.keep)).float()
        conditional = self.teacher(*told, torch.ones_like(batch.keep)).float()
        keep = batch.keep.reshape(-1, *[1] * (unconditional.dim() - 1))
        return unconditional + keep * self.guidance * (conditional - unconditional)
