"""Stage `distill` of the slice form: a teacher's guided prediction in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from ..config import SystemConfig
from ..diffusion import by_time
from .denoiser import NoisyBatch, NoisyLatents


class DistillObjective:
    """The guided prediction of a frozen teacher in one call (Meng et al. 2023, stage one, at a single guidance).

    Where the condition is dropped the target is the teacher's unconditional prediction, so that guidance still means
    something on top.
    """

    def __init__(
        self,
        config: SystemConfig,
        latents: NoisyLatents,
        teacher: nn.Module,
        guidance: float,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.config, self.latents = config, latents
        self.teacher, self.guidance, self.autocast = teacher, guidance, autocast

    def __call__(
        self, module: nn.Module, step: int, generator: np.random.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        size = self.config.stages["distill"].batch_size
        batch = self.latents.draw(size, next(module.parameters()).device, generator)
        with torch.no_grad(), self.autocast():
            wanted = self.guided(batch)
        predicted = module(batch.noisy, batch.timestep, batch.condition, batch.keep).float()
        error = (predicted - wanted).square()
        return error.mean(), {} if module.training else by_time(error, batch.timestep, self.config.schedule.steps)

    def guided(self, batch: NoisyBatch) -> Tensor:
        """The teacher's prediction with guidance where the condition is kept, without a condition elsewhere."""
        told = (batch.noisy, batch.timestep, batch.condition)
        unconditional = self.teacher(*told, torch.zeros_like(batch.keep)).float()
        conditional = self.teacher(*told, torch.ones_like(batch.keep)).float()
        keep = batch.keep.reshape(-1, *[1] * (unconditional.dim() - 1))
        return unconditional + keep * self.guidance * (conditional - unconditional)
