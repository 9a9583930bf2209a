"""The voxels of a scan that a case was made from, and the way back to them: an answer in the source's geometry."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ..bundle.manifest import MAX_VOXELS, SPACING_MM, Grid

_AT_THE_EDGE = 0.499  # of the field of view, half a voxel beyond its outermost centres, linear interpolation is 1/2
_NEARER = 0.5  # share of the brain's voxels around a place from which it is brain


@dataclass(frozen=True)
class ScanVoxels:
    """A scan's voxels, of any orientation, and where the model's field of view lies over them."""

    shape: tuple[int, int, int]  # in the file's order of axes
    affine: tuple[tuple[float, ...], ...]  # (4, 4) voxel index -> RAS mm
    centre_mm: tuple[float, float, float]  # RAS: the middle of the model's field of view

    @staticmethod
    def of(shape: tuple[int, ...], affine: NDArray[np.float64], centre_mm: NDArray[np.float64]) -> ScanVoxels:
        """Those of a scan's arrays, to a millionth of a millimetre."""
        rows = tuple(tuple(round(float(value), 6) + 0.0 for value in row) for row in affine)
        x, y, z = (round(float(value), 6) + 0.0 for value in centre_mm)
        return ScanVoxels((shape[0], shape[1], shape[2]), rows, (x, y, z))

    def problems(self) -> list[str]:
        """What keeps this from being the voxels of a scan, one line each."""
        affine = np.array(self.affine, np.float64) if {len(row) for row in self.affine} == {4} else np.zeros(0)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or affine[3].tolist() != [0, 0, 0, 1]:
            return ["affine: must be 4 rows of 4 numbers, the last 0, 0, 0, 1"]
        if min(self.shape) < 1 or np.prod(np.array(self.shape, object)) > MAX_VOXELS:
            return [f"shape {self.shape}: must be 1 or more each, {MAX_VOXELS} voxels at most"]
        sides = np.linalg.norm(affine[:3, :3], axis=0)
        low, high = SPACING_MM
        if not (low <= sides.min() and sides.max() <= high) or abs(np.linalg.det(affine[:3, :3] / sides)) < _NEARER:
            return [f"affine: its voxels must have sides of {low:g} to {high:g} mm, about perpendicular"]
        return [] if np.isfinite(self.centre_mm).all() else ["centre_mm: must be numbers"]

    def bring(
        self, image: NDArray[np.int16], label: NDArray[np.uint8], classes: int, grid: Grid
    ) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """A sample in RAS+ on `grid` to these voxels, in their order of axes; background beyond the field of view.

        As `regrid`: linear, what lies nearer to background than to brain stays exactly 0, of labels the largest wins.
        """
        matrix, offset = self.to_grid(grid)

        def linear(volume: ArrayLike, mode: str = "nearest") -> NDArray[np.float32]:
            made = np.empty(self.shape, np.float32)
            source = np.ascontiguousarray(volume, np.float32)
            ndimage.affine_transform(source, matrix, offset.tolist(), output=made, order=1, mode=mode)
            return made

        inside = linear(np.ones(grid.shape), "grid-constant") >= _AT_THE_EDGE
        brain = inside & (linear(np.any(image > 0, axis=0)) > _NEARER)
        images = np.stack([np.rint(linear(modality) * brain).astype(np.int16) for modality in image])
        labels, best = np.zeros(self.shape, np.uint8), 1 - linear(label > 0)  # the share of background
        for value in range(1, classes):
            share = linear(label == value)
            np.copyto(labels, np.uint8(value), where=inside & (share > best))
            np.maximum(best, share, out=best)
        return images, labels

    def to_grid(self, grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Matrix and offset from a voxel of the scan to one of the model's grid."""
        affine, steps = np.array(self.affine), np.array(grid.spacing_mm)
        middle = (np.array(grid.shape) - 1) / 2
        matrix = affine[:3, :3] / steps[:, None]
        return matrix, (affine[:3, 3] - np.array(self.centre_mm)) / steps + middle
