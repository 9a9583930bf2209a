"""The next batch is drawn while this step is computed, exactly as it would be in its turn; its way to the device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..engine.processor import available_threads

Batch = TypeVar("Batch")


class BatchGenerator(np.random.Generator):
    """Randomness of one batch of a training, which knows the batch that this process makes next."""

    def __init__(self, key: Sequence[int], following: Callable[[], BatchGenerator] | None = None) -> None:
        """`key` is what the numbers are a function of; `following` makes the generator of the next batch."""
        super().__init__(np.random.PCG64(np.random.SeedSequence(key)))
        self.following = following


@dataclass(frozen=True)
class _Pending(Generic[Batch]):
    """A batch in the making."""

    size: int
    began: Mapping[str, Any]  # state of its generator before
    generator: BatchGenerator
    made: Future[Batch]


class DrawnAhead(Generic[Batch]):
    """What draws batches, with a thread that draws the one after.

    What it gives, and how it leaves the generator, is what `draw` would give and leave: a batch that was drawn ahead
    is taken only where it began from the same state. With one processor nothing is drawn ahead.
    """

    def __init__(self, draw: Callable[[int, np.random.Generator], Batch]) -> None:
        """`draw` takes a number of items and the generator; it is a function of them and of what never changes."""
        self._draw = draw
        self._pool = ThreadPoolExecutor(1, "batches") if available_threads() > 1 else None
        self._pending: _Pending[Batch] | None = None

    def __call__(self, size: int, generator: np.random.Generator) -> Batch:
        """`size` items. An error of drawing them is raised in their own turn."""
        pending, self._pending = self._pending, None
        if pending is not None and pending.size == size and pending.began == generator.bit_generator.state:
            batch = pending.made.result()
            generator.bit_generator.state = pending.generator.bit_generator.state
        else:
            batch = self._draw(size, generator)
        if self._pool is not None and isinstance(generator, BatchGenerator) and generator.following is not None:
            later = generator.following()
            began = later.bit_generator.state
            self._pending = _Pending(size, began, later, self._pool.submit(self._draw, size, later))
        return batch


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor there. A copy to a GPU waits for nothing that the GPU still computes."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
