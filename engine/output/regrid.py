"""Volumes from one voxel grid to another: linear along each axis, no matrix library, so equal input gives equal bytes.

Two grids are laid over each other by the centres of their fields of view.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Grid

BRATS_GRID = Grid((240, 240, 155), (1.0, 1.0, 1.0))
BRATS_AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239.0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
"""Affine of every BraTS scan: LPS voxel order in RAS millimetres."""


@dataclass(frozen=True)
class AxisTaps:
    """The two source samples and weights that each target voxel of an axis takes."""

    lower: NDArray[np.intp]  # (n,)
    upper: NDArray[np.intp]  # (n,)
    weight: NDArray[np.float32]  # (n,) of the upper one
    inside: NDArray[np.bool_]  # (n,) target voxel centres within the source's field of view


def axis_taps(source: int, source_mm: float, target: int, target_mm: float) -> AxisTaps:
    """Taps of one axis for two centred grids of `source` and `target` voxels of the given millimetres."""
    position = (np.arange(target) - (target - 1) / 2) * (target_mm / source_mm) + (source - 1) / 2
    inside = (position >= -0.5) & (position <= source - 0.5)
    clipped = np.clip(position, 0, source - 1)
    lower = np.minimum(np.floor(clipped).astype(np.intp), max(source - 2, 0))
    return AxisTaps(lower, np.minimum(lower + 1, source - 1), (clipped - lower).astype(np.float32), inside)


def resample(volume: NDArray[np.float32], source: Grid, target: Grid) -> NDArray[np.float32]:
    """Linear interpolation of (x, y, z) float32 on `source` to `target`; 0 outside the source's field of view."""
    result = volume
    for axis in range(3):
        taps = axis_taps(source.shape[axis], source.spacing_mm[axis], target.shape[axis], target.spacing_mm[axis])
        along = [1, 1, 1]
        along[axis] = -1
        weight = taps.weight.reshape(along)
        low, high = np.take(result, taps.lower, axis), np.take(result, taps.upper, axis)
        result = (low + weight * (high - low)) * taps.inside.reshape(along)
    return np.ascontiguousarray(result, np.float32)


def regrid_image(image: NDArray[np.int16], source: Grid, target: Grid) -> NDArray[np.int16]:
    """(modality, x, y, z) int16 images to `target`; what lies nearer to background than to brain stays exactly 0."""
    foreground = resample(np.any(image > 0, axis=0).astype(np.float32), source, target) > 0.5
    return np.stack([np.rint(resample(m.astype(np.float32), source, target) * foreground) for m in image]).astype(
        np.int16
    )


def regrid_label(label: NDArray[np.uint8], classes: int, source: Grid, target: Grid) -> NDArray[np.uint8]:
    """(x, y, z) labels 0..classes-1 to `target`: each class interpolated, the largest wins, ties go to the lower."""
    best = np.full(target.shape, -1.0, np.float32)
    result = np.zeros(target.shape, np.uint8)
    for value in range(classes):
        share = resample((label == value).astype(np.float32), source, target)
        np.copyto(result, np.uint8(value), where=share > best)
        np.maximum(best, share, out=best)
    return result


def to_brats(
    image: NDArray[np.int16], label: NDArray[np.uint8], classes: int, grid: Grid
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A sample in RAS+ on `grid` to the BraTS grid and its LPS voxel order (use with `BRATS_AFFINE`)."""
    fine_image = regrid_image(image, grid, BRATS_GRID)[:, ::-1, ::-1]
    fine_label = regrid_label(label, classes, grid, BRATS_GRID)[::-1, ::-1]
    return np.ascontiguousarray(fine_image), np.ascontiguousarray(fine_label)
