"""Stage `aggregator` of the slice form: the mosaic's VAE on stacks of slice latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from ..config import SystemConfig
from ..latents import LatentStore, draw_latents


class AggregatorObjective:
    """L1 and KL of the mosaic's VAE."""

    def __init__(self, config: SystemConfig, store: LatentStore) -> None:
        self.config, self.store = config, store

    def __call__(
        self, module: nn.Module, step: int, generator: np.random.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        slices, _, _ = draw_latents(self.store, self.config.stages["aggregator"].batch_size, generator)
        device = next(module.parameters()).device
        return cast(Any, module).loss(slices.to(device), self.config.aggregator.kl_weight), {}
