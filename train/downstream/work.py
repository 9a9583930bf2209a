"""What a training of a segmenter is given, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...engine.bundle.manifest import Grid
from ..evaluation.segmenter import Volume

Image = NDArray[np.uint8]  # (modality, x, y, z): 0 background
Label = NDArray[np.uint8]  # (x, y, z): 0 background, 1 NCR, 2 ED, 3 ET
Predict = Callable[[Iterable[Image]], Iterator[Label]]


@dataclass(frozen=True)
class Work:
    """One training."""

    volumes: list[Volume]
    chances: tuple[float, ...]  # of each volume to be drawn
    grid: Grid
    modalities: tuple[str, ...]
    steps: int
    seed: int
    device: str
    folder: Path  # where it may keep files while it trains
    advance: Callable[[int, float], None]  # finished steps, loss
