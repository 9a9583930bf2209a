"""Whether image and mask of a sample belong together: independent segmenters, trained on real cases, find the mask.

One of them gives the features by which sets of cases are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...engine.conditions.columns import COLUMNS
from ..data.cohort import Cohort
from . import bootstrap
from .segmenter import REGIONS, SegmenterSettings, UNet, Volume, dice, segment, train_segmenter
from .volumes import in_content_order

FOLDS = 3  # of the real cases; a segmenter judges one and is trained on the others
LEAST_CASES = 3
VOLUME_GROUPS = 3  # of samples, by the tumour's volume


@dataclass(frozen=True)
class Looked:
    """What the segmenters say of a cohort's cases, in their order."""

    features: NDArray[np.float64]  # (cases, features) of the first one
    dice: NDArray[np.float64]  # (cases, region) with the case's own mask
    swapped: NDArray[np.float64]  # with another case's


@dataclass(frozen=True)
class Judge:
    """Segmenters, one for each of `folds` of any cohort; none was trained on the real cases of its own fold."""

    models: tuple[UNet, ...]
    trained_on: int  # cases, or one more
    steps: int

    @property
    def name(self) -> str:
        """Of the features."""
        return (
            f"segmenter of this program, {self.steps} steps on {self.trained_on} cases of --real, seed 0: mean and "
            "deviation of each channel of its encoder inside the brain"
        )


def folds(cohort: Cohort) -> list[list[int]]:
    """Cases that the same segmenter judges; which ones depends on their content, not on their names."""
    order = in_content_order(cohort)
    return [sorted(order[fold::FOLDS]) for fold in range(FOLDS)]


def trained_judge(real: Cohort, steps: int) -> Judge:
    """Train a segmenter a fold, each with a seed of its own: a single one depends on chance, and on the number of
    threads by which sums are rounded, as much as on the samples (docs/evaluation.md).

    Raises:
        InvalidInputError: see `train_segmenter`.
    """
    models, parts = [], folds(real)
    for seed, unseen in enumerate(parts):
        volumes = [volume_of(real, case) for case in range(len(real)) if case not in unseen]
        model = train_segmenter(volumes, SegmenterSettings(steps=steps, seed=seed))
        assert isinstance(model, UNet)
        models.append(model)
    return Judge(tuple(models), len(real) - len(parts[0]), steps)


def fits(cohort: Cohort) -> str | None:
    """Why no segmenter can be trained on a cohort; None where one can."""
    if len(cohort) < LEAST_CASES:
        return f"fewer than {LEAST_CASES} real cases"
    factor = 2 ** (len(SegmenterSettings.widths) - 1)
    if any(n % factor for n in cohort.grid.shape[:2]):
        return f"its slices of {cohort.grid.shape[0]} x {cohort.grid.shape[1]} pixels are no multiple of {factor}"
    return None


def look(judge: Judge, cohort: Cohort) -> Looked:
    """Segment every case by the segmenter of its fold, and keep what the first one's encoder says of it."""
    features, labels = [], []
    of_case = {case: model for model, cases in zip(judge.models, folds(cohort), strict=True) for case in cases}
    for case in range(len(cohort)):
        image, _ = volume_of(cohort, case)
        label, said = _look_at(judge.models[0], image)
        features.append(said)
        labels.append(label if of_case[case] is judge.models[0] else segment(of_case[case], image))
    return Looked(np.stack(features), *agreements(cohort, labels))


def agreements(cohort: Cohort, found: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dice (cases, region) of the masks that were `found` with the cases' own ones, and with another case's.

    Masks are swapped around the cases' content.
    """
    order = in_content_order(cohort)
    swapped = {case: order[k - 1] for k, case in enumerate(order)}
    own, other = (
        np.array([list(dice(found[case], _label(cohort, of)).values()) for case, of in pairs])
        for pairs in ([(case, case) for case in range(len(order))], sorted(swapped.items()))
    )
    return own, other


def agreement(judge: Judge, real: Looked, synthetic: Looked) -> dict[str, Any]:
    """Dice of each region: of real cases that their segmenter has not seen, of samples, of samples of swapped masks."""
    return {
        "segmenter": (
            f"{FOLDS} of this program, {judge.steps} steps each, every one trained on the cases of --real that the "
            "others judge"
        ),
        "fitted": judge.trained_on,
        **compared(real.dice, synthetic.dice, synthetic.swapped),
    }


def compared(real: NDArray[np.float64], synthetic: NDArray[np.float64], swapped: NDArray[np.float64]) -> dict[str, Any]:
    """The means of Dice (cases, region) with their intervals, a region each."""
    return {
        region: {
            "real": bootstrap.mean(real[:, r]),
            "synthetic": bootstrap.mean(synthetic[:, r]),
            "ratio": bootstrap.ratio(synthetic[:, r], real[:, r]),
            "swapped": bootstrap.mean(swapped[:, r]) if len(synthetic) > 1 else None,
        }
        for r, region in enumerate(REGIONS)
    }


def by_volume(samples: Cohort, found: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Dice (cases, region) of the whole tumour in groups of samples of equal size, by the tumour's volume."""
    volumes = samples.conditions[:, COLUMNS.index("volume_ml")]
    groups = np.array_split(np.argsort(volumes, kind="stable"), min(VOLUME_GROUPS, len(volumes)))
    return [
        {
            "from_ml": float(volumes[group].min()),
            "to_ml": float(volumes[group].max()),
            "dice": bootstrap.mean(found[group, 0]),
        }
        for group in groups
    ]


def volume_of(cohort: Cohort, case: int) -> Volume:
    """Image (modality, x, y, z) and label (x, y, z) of a prepared case."""
    return np.ascontiguousarray(cohort.slices(case).transpose(1, 2, 3, 0)), _label(cohort, case)


def _label(cohort: Cohort, case: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(cohort.label(case).transpose(1, 2, 0))


def _look_at(model: UNet, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The mask that the segmenter finds, and (mean, deviation) of every channel of its encoder inside the brain."""
    held = image[..., image.any(axis=(0, 1, 2))]  # the slices that the segmenter looks at
    brain = torch.from_numpy(held).amax(dim=0).permute(2, 0, 1).gt(0).float()[:, None]
    sums: list[list[Tensor]] = [[] for _ in model.down]
    hooks = [_watched(block, sums[level]) for level, block in enumerate(model.down)]
    try:
        label = segment(model, image)
    finally:
        for hook in hooks:
            hook.remove()
    return label, np.concatenate([_pooled(torch.cat(one), brain) for one in sums])


def _watched(block: nn.Module, kept: list[Tensor]) -> Any:
    return block.register_forward_hook(lambda _block, _inputs, output: kept.append(output.detach()))


def _pooled(activations: Tensor, brain: Tensor) -> NDArray[np.float64]:
    """(slices, channels, x, y) -> mean and deviation of each channel, weighted by the brain's share of the pixels."""
    values = activations.permute(0, 2, 3, 1).flatten(0, 2).float()
    weights = functional.adaptive_avg_pool2d(brain, (activations.shape[-2], activations.shape[-1])).flatten()
    weights = weights / weights.sum()
    mean, square = weights @ values, weights @ values.square()
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    return torch.cat([mean, deviation]).double().numpy()
