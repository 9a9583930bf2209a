"""Stage `aggregator` of the slice form: the mosaic's VAE on stacks of slice latents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from ..config import SystemConfig
from ..latents import LatentStore, draw_latents
from ..prefetch import DrawnAhead, to_device


class AggregatorObjective:
    """L1 and KL of the mosaic's VAE."""

    def __init__(self, config: SystemConfig, store: LatentStore) -> None:
        self.config = config
        self._drawn = DrawnAhead(partial(draw_latents, store))

    def __call__(
        self, module: nn.Module, step: int, generator: np.random.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        slices, _, _ = self._drawn(self.config.stages["aggregator"].batch_size, generator)
        device = next(module.parameters()).device
        return cast(Any, module).loss(to_device(slices, device), self.config.aggregator.kl_weight), {}
