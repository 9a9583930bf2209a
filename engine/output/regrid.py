"""Volumes from one voxel grid to another: linear along each axis, no matrix library, so equal input gives equal bytes.

Two grids are laid over each other by the centres of their fields of view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Grid

BRATS_GRID = Grid((240, 240, 155), (1.0, 1.0, 1.0))
BRATS_AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239.0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
"""Affine of every BraTS scan: LPS voxel order in RAS millimetres."""


@dataclass(frozen=True)
class FileGrid:
    """The voxels of files: their number along each axis, and the affine (4, 4) from voxel index to RAS millimetres.

    Each voxel axis lies along an axis of the patient.
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]

    @staticmethod
    def of(shape: tuple[int, ...], affine: NDArray[np.float64]) -> FileGrid:
        """A grid along the axes of the patient that lies as near as can be to the one given."""
        orientation = nib.io_orientation(affine)
        straight = np.zeros((4, 4))
        for axis, (world, sign) in enumerate(orientation):
            straight[int(world), axis] = sign * np.linalg.norm(affine[:3, axis])
        middle = (np.array(shape) - 1) / 2
        straight[:3, 3] = affine[:3, :3] @ middle + affine[:3, 3] - straight[:3, :3] @ middle
        straight[3, 3] = 1
        rows = tuple(tuple(round(float(value), 6) + 0.0 for value in row) for row in straight)
        return FileGrid((shape[0], shape[1], shape[2]), rows)

    def covering(self, fov_mm: tuple[float, float, float]) -> FileGrid:
        """This grid, with as many more voxels on either side of an axis as a field of view (x, y, z) asks for."""
        spacing, axes = np.linalg.norm(np.array(self.affine)[:3, :3], axis=0), self.orientation[:, 0].astype(int)
        least = [math.ceil(fov_mm[world] / side - 1e-6) for world, side in zip(axes, spacing, strict=True)]
        more = [max(0, wanted - there) for wanted, there in zip(least, self.shape, strict=True)]
        affine = np.array(self.affine)
        affine[:3, 3] -= affine[:3, :3] @ (np.array(more) / 2)
        return FileGrid.of(tuple(there + added for there, added in zip(self.shape, more, strict=True)), affine)

    def problems(self) -> list[str]:
        """What keeps this from being a grid, one line each."""
        affine = np.array(self.affine, np.float64) if {len(row) for row in self.affine} == {4} else np.zeros(0)
        used = affine[:3, :3] != 0 if affine.shape == (4, 4) else np.zeros((3, 3), bool)
        if (used.sum(axis=0) != 1).any() or (used.sum(axis=1) != 1).any() or affine[3].tolist() != [0, 0, 0, 1]:
            return ["affine: must be 4 rows of 4 numbers that put each voxel axis along an axis of the patient"]
        return self.turned.problems()

    @property
    def orientation(self) -> NDArray[np.float64]:
        """(3, 2): the patient's axis of each voxel axis, and 1 or -1, as nibabel has it."""
        return np.asarray(nib.io_orientation(np.array(self.affine)), np.float64)

    @property
    def turned(self) -> Grid:
        """The same voxels with axes in RAS+ order."""
        spacing = np.linalg.norm(np.array(self.affine)[:3, :3], axis=0)
        order = np.argsort(self.orientation[:, 0])
        return Grid(
            tuple(self.shape[axis] for axis in order),  # type: ignore[arg-type]
            tuple(float(spacing[axis]) for axis in order),  # type: ignore[arg-type]
        )


BRATS_FILES = FileGrid.of(BRATS_GRID.shape, BRATS_AFFINE)


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


def to_files(
    image: NDArray[np.int16], label: NDArray[np.uint8], classes: int, grid: Grid, target: FileGrid
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """A sample in RAS+ on `grid` to the voxels of files, in their order of axes."""
    fine = target.turned
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), target.orientation)

    def turned(volume: NDArray[np.int16] | NDArray[np.uint8]) -> NDArray[np.int16] | NDArray[np.uint8]:
        return np.ascontiguousarray(nib.orientations.apply_orientation(volume, turn))

    images = np.stack([turned(modality) for modality in regrid_image(image, grid, fine)])
    return images, turned(regrid_label(label, classes, grid, fine))  # type: ignore[return-value]
