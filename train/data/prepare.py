"""From the arrays of a scan to the numbers that training reads: brain mask, robust scaling, 8-bit storage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...engine.bundle.manifest import Grid
from .read import RawCase
from .resample import GridSampler

LABELS = 4  # background, NCR, ED, ET
SCALE_PERCENTILE = 99.5
SCALE_HEADROOM = 1.1  # bright tumour (FLAIR, rims on T1ce) lies beyond the percentile
SCALE_LIMIT = 5.0  # times the median of the brain: where outliers are more than the percentile leaves out
LEVELS = 255  # stored value of +1; 0 is background (-1)


@dataclass(frozen=True)
class PreparedCase:
    """One case on the grid."""

    image: NDArray[np.uint8]  # (modality, x, y, z), 0 background, 1..255 brain
    label: NDArray[np.uint8]  # (x, y, z)
    scales: tuple[float, ...]  # raw value that became +1, one a modality


def prepare_case(raw: RawCase, grid: Grid) -> PreparedCase:
    """Bring one case to the grid in RAS+ and scale each modality to [-1, 1], stored as 0..255.

    The brain is where any modality is not 0; on the grid, where its linearly resampled mask is at least one half.
    """
    sampler = GridSampler(raw.label.shape, raw.affine, grid.shape, grid.spacing_mm)
    images = [sampler.to_ras(image) for image in raw.images]
    brain = images[0] != 0
    for image in images[1:]:
        brain |= image != 0
    on_grid = sampler.image(brain) >= 0.5
    stored = np.zeros((len(images), *sampler.grid_shape), np.uint8)
    scales = []
    for number, image in enumerate(images):
        scale = robust_scale(image[brain])
        clipped = np.clip(image, 0, scale).astype(np.float32)
        level = np.rint(sampler.image(clipped) * np.float32(LEVELS / scale))
        stored[number] = np.where(on_grid, np.clip(level, 1, LEVELS), 0)
        scales.append(scale)
    label = sampler.label(sampler.to_ras(raw.label), LABELS)
    return PreparedCase(stored, label, tuple(scales))


def robust_scale(values: NDArray) -> float:
    """The raw value that becomes +1, from the values inside of the brain (any shape, at least one above 0).

    1.1 times the 99.5th percentile, at most 5 times the median, so that single voxels of 32767 change nothing.
    """
    positive = values[values > 0]
    top, middle = np.percentile(positive, [SCALE_PERCENTILE, 50])
    return float(min(SCALE_HEADROOM * top, SCALE_LIMIT * middle))


def to_unit(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stored values 0..255 -> float32 in [-1, 1]; background is exactly -1."""
    return stored.astype(np.float32) * np.float32(2 / LEVELS) - np.float32(1)
