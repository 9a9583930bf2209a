"""A stage's loss on held-out cases, always at the same draws, so that it falls for no other reason than the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import nn

from .data.cohort import Cohort
from .stage import StepLoss, step_generator

CASES = 16  # at most, evenly among the held-out ones


def looked_at(cohort: Cohort) -> Cohort:
    """The held-out cases that the loss is measured on."""
    count = len(cohort)
    return cohort.subset(np.unique(np.linspace(0, count - 1, min(count, CASES)).round().astype(int)).tolist())


class HeldOutLoss:
    """Means of an objective's loss and terms over so many batches; cases, noise and times depend on the stage alone.

    Reseeds the generators of PyTorch, as every training step does.
    """

    def __init__(
        self,
        stage: str,
        objective: StepLoss,
        batches: int,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.stage, self.objective, self.batches, self.autocast = stage, objective, batches, autocast

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> dict[str, float]:
        """`held_out_loss`, and `held_out_NAME` of each term; batches where a term is NaN do not count for it."""
        found: dict[str, list[float]] = {}
        for batch in range(self.batches):
            generator = step_generator(0, self.stage, batch)
            with self.autocast():
                loss, terms = self.objective(module, batch, generator)
            for name, value in {"loss": loss, **terms}.items():
                found.setdefault(f"held_out_{name}", []).append(float(value))
        known = {name: [value for value in values if not math.isnan(value)] for name, values in found.items()}
        means = {name: float(np.mean(values)) for name, values in known.items() if values}
        return {"held_out_loss": math.nan, **means}
