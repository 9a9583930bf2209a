"""The segmenters that can be trained, each as one function from the cases to what finds tumours in an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine.bundle.manifest import Grid
from ..evaluation.segmenter import SegmenterSettings, Volume, segment, train_segmenter

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


def train_slices(work: Work) -> Predict:
    """The small 2.5D U-Net of `evaluation/segmenter.py`."""
    settings = SegmenterSettings(steps=work.steps, seed=work.seed)
    model = train_segmenter(work.volumes, settings, work.advance, chances=work.chances, device=work.device)
    return partial(map, partial(segment, model))


def train_monai(work: Work) -> Predict:
    """MONAI's 3D U-Net; see `monai_unet.py`."""
    from .monai_unet import train_unet

    return train_unet(work)


def train_nnunet(work: Work) -> Predict:
    """nnU-Net 2, where it is installed; see `nnunet.py`."""
    from . import nnunet

    return nnunet.train_nnunet(work)


@dataclass(frozen=True)
class Trainer:
    """A kind of segmenter."""

    train: Callable[[Work], Predict]
    steps: int  # by default
    settings: dict[str, Any]  # what else shapes it, for its results' key
    packages: tuple[str, ...]  # whose versions its results depend on
    require: Callable[[int], None] = lambda steps: None  # UsageError where it cannot train so many steps here


def _slices() -> Trainer:
    settings = asdict(SegmenterSettings())
    del settings["steps"], settings["seed"]
    return Trainer(train_slices, SegmenterSettings.steps, settings, ("torch",))


def _monai() -> Trainer:
    from .monai_unet import SETTINGS

    return Trainer(train_monai, 2000, asdict(SETTINGS), ("torch", "monai"))


def _nnunet() -> Trainer:
    from .nnunet import require_nnunet

    return Trainer(train_nnunet, 25_000, {}, ("torch", "nnunetv2"), require_nnunet)


TRAINERS: dict[str, Callable[[], Trainer]] = {"slices": _slices, "monai": _monai, "nnunet": _nnunet}
