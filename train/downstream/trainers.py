"""The segmenters that can be trained, each as one function from the cases to what finds tumours in an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ..evaluation.segmenter import SegmenterSettings, segment, train_segmenter
from .work import Predict, Work


def train_slices(work: Work) -> Predict:
    """The small 2.5D U-Net of `evaluation/segmenter.py`."""
    settings = SegmenterSettings(steps=work.steps, seed=work.seed)
    model = train_segmenter(work.volumes, settings, work.advance, chances=work.chances, device=work.device)
    return partial(map, partial(segment, model))


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
    from .monai_unet import SETTINGS, train_unet

    return Trainer(train_unet, 2000, asdict(SETTINGS), ("torch", "monai"))


def _nnunet() -> Trainer:
    from .nnunet import require_nnunet, train_nnunet

    return Trainer(train_nnunet, 25_000, {}, ("torch", "nnunetv2"), require_nnunet)


TRAINERS: dict[str, Callable[[], Trainer]] = {"slices": _slices, "monai": _monai, "nnunet": _nnunet}
