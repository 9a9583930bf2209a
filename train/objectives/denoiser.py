"""Stage `denoiser` of the slice form: noise or velocity prediction on volume latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...engine.bundle.manifest import NoiseSchedule
from ..config import SystemConfig
from ..diffusion import add_noise, by_time, prediction_target, table_tensor
from ..latents import LatentStore, draw_latents
from ..networks.aggregator import Aggregator
from ..prefetch import DrawnAhead, to_device


@dataclass(frozen=True)
class NoisyBatch:
    """Volume latents with noise of each one's own time, and what the denoiser is told of them."""

    clean: Tensor  # (N, C, ...)
    noise: Tensor
    noisy: Tensor
    signal: Tensor  # alphas_cumprod (N,)
    timestep: Tensor  # (N,) float32
    condition: Tensor  # (N, K) normalised
    keep: Tensor  # (N,) float32: 0 where the condition is dropped


class NoisyLatents:
    """Draws training batches of the denoiser: times stratified over the batch, conditions dropped at random."""

    def __init__(
        self,
        config: SystemConfig,
        store: LatentStore,
        aggregator: Aggregator,
        conditions: NDArray[np.float32],
        schedule: NoiseSchedule,
    ) -> None:
        self.config, self.store, self.aggregator, self.schedule = config, store, aggregator, schedule
        self.conditions = conditions  # normalised (cases, 2, K)
        self._drawn = DrawnAhead(partial(draw_latents, store))

    def draw(self, size: int, device: torch.device, generator: np.random.Generator) -> NoisyBatch:
        """`size` latents; every batch holds early, middle and late times."""
        slices, cases, mirrors = self._drawn(size, generator)
        with torch.no_grad():
            clean = self.aggregator.encode(to_device(slices, device))
        t = torch.from_numpy(
            ((generator.permutation(size) + generator.random(size)) / size * self.config.schedule.steps).astype(
                np.int64
            )
        )
        kept = (generator.random(size) >= self.config.condition_dropout).astype(np.float32)
        keep = to_device(torch.from_numpy(kept), device)
        condition = to_device(torch.from_numpy(self.conditions[cases, mirrors]), device)
        timestep = to_device(t, device)
        signal = table_tensor(self.schedule, device)[timestep]
        noise = torch.randn_like(clean)
        noisy = add_noise(clean, noise, signal)
        return NoisyBatch(clean, noise, noisy, signal, timestep.float(), condition, keep)


class DenoiserObjective:
    """Noise or velocity prediction at uniform timesteps with condition dropout."""

    def __init__(self, config: SystemConfig, latents: NoisyLatents) -> None:
        self.config, self.latents = config, latents

    def __call__(
        self, module: nn.Module, step: int, generator: np.random.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        size = self.config.stages["denoiser"].batch_size
        batch = self.latents.draw(size, next(module.parameters()).device, generator)
        predicted = module(batch.noisy, batch.timestep, batch.condition, batch.keep).float()
        kind = self.latents.schedule.prediction_type
        wanted = prediction_target(batch.clean, batch.noise, batch.signal, kind)
        error = (predicted - wanted).abs() if self.config.denoiser_loss == "l1" else (predicted - wanted).square()
        times = {} if module.training else by_time(error, batch.timestep, self.config.schedule.steps)
        return error.mean(), times
