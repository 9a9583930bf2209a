"""How good a volume is: beside the reference of the same seed, and against the tumour that was asked for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..engine.bundle.manifest import INT16_SCALE, BundleManifest
from ..engine.output.measure import measure_tumour
from ..engine.run.outcomes import VOLUME_TOLERANCE
from ..engine.sampling.types import Volume


@dataclass(frozen=True)
class Quality:
    """Medians and counts over the volumes of a point; None where there is nothing to say."""

    psnr_db: float | None  # of the images against the reference, peak = the written range; None: identical
    dice: Mapping[str, float]  # a label against the reference's; 1 where neither has it
    volume_error: float | None  # |measured / requested - 1| of the tumour's volume
    centre_error_mm: float | None
    without_tumour: int
    off_volume: int  # tumours that miss the requested volume by more than `VOLUME_TOLERANCE`


def compare(
    volumes: Sequence[Volume],
    reference: Sequence[Volume],
    requested: Sequence[Mapping[str, float]],
    manifest: BundleManifest,
) -> Quality:
    """Quality of volumes beside reference volumes of the same samples and what was requested of each."""
    psnr = [_psnr(a, b) for a, b in zip(volumes, reference, strict=True)]
    pairs = list(zip(volumes, reference, strict=True))
    labels = {
        name: statistics.median(dice(a.label == label, b.label == label) for a, b in pairs)
        for label, name in enumerate(manifest.labels)
        if label
    }
    misses = [_misses(volume, wanted, manifest) for volume, wanted in zip(volumes, requested, strict=True)]
    empty = sum(not np.any(volume.label) for volume in volumes)
    off = sum(volume > VOLUME_TOLERANCE for volume, _ in misses) - empty
    return Quality(
        _median(psnr), labels, _median([volume for volume, _ in misses]), _median([centre for _, centre in misses]),
        empty, off,
    )  # fmt: skip


def _psnr(a: Volume, b: Volume) -> float | None:
    error = float(np.mean((a.image.astype(np.float64) - b.image) ** 2))
    return 10 * math.log10(INT16_SCALE**2 / error) if error else None


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Of two masks; 1 where both are empty."""
    both = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / both if both else 1.0


def _misses(volume: Volume, wanted: Mapping[str, float], manifest: BundleManifest) -> tuple[float, float | None]:
    measured = measure_tumour(volume.label, manifest.grid.spacing_mm)
    if measured.volume_ml == 0:
        return 1.0, None
    offsets = [
        (getattr(measured, axis) - wanted[axis]) * side for axis, side in zip("xyz", manifest.grid.fov_mm, strict=True)
    ]
    return abs(measured.volume_ml / wanted["volume_ml"] - 1), math.hypot(*offsets)


def _median(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None
