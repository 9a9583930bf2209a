"""Where the pixels of a series lie: between RAS affines of arrays and the patient coordinates (LPS) of DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS <-> LPS millimetres, its own inverse."""


@dataclass(frozen=True)
class Stack:
    """Parallel slices of a volume, and how an array of the same voxels turns into them.

    Arrays of slices are (column, row, slice): PS3.3 C.7.6.2.1.1 counts columns along the first direction of Image
    Orientation (Patient), rows along the second.
    """

    shape: tuple[int, int, int]  # columns, rows, slices
    affine: NDArray[np.float64]  # (4, 4): (column, row, slice) -> LPS mm
    flipped: tuple[int, ...] = ()  # axes along which the array runs the other way

    @staticmethod
    def of(shape: tuple[int, ...], affine: NDArray[np.float64], *, as_radiologists_see_it: bool) -> Stack:
        """Slices along the last axis of an array (i, j, k) of this RAS affine.

        `as_radiologists_see_it` lets columns run to the patient's left and rows to the back, whatever the array does.
        """
        lps = _TO_LPS @ affine
        flipped: list[int] = []
        for axis in (0, 1) if as_radiologists_see_it else ():
            if lps[axis, axis] < 0:
                lps[:3, 3] += lps[:3, axis] * (shape[axis] - 1)
                lps[:3, axis] *= -1
                flipped.append(axis)
        return Stack((shape[0], shape[1], shape[2]), lps, tuple(flipped))

    @property
    def ras(self) -> NDArray[np.float64]:
        """(4, 4): (column, row, slice) -> RAS mm."""
        return _TO_LPS @ self.affine

    def turned(self, array: NDArray) -> NDArray:
        """The array of the voxels as (column, row, slice), or back (a view)."""
        return np.flip(array, self.flipped) if self.flipped else array

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from column to column, row to row, slice to slice."""
        column, row, slice_ = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return column, row, slice_

    @property
    def orientation(self) -> list[float]:
        """Image Orientation (Patient): the directions along which columns and rows are counted."""
        column, row, _ = self.spacing
        return [*(self.affine[:3, 0] / column), *(self.affine[:3, 1] / row)]

    def position(self, number: int) -> list[float]:
        """Image Position (Patient) of a slice: the centre of its first voxel."""
        return (self.affine[:3, 3] + number * self.affine[:3, 2]).tolist()

    def slice_at(self, position: Sequence[float]) -> int:
        """The slice whose plane is nearest to a point (LPS mm)."""
        away = np.asarray(position, np.float64) - self.affine[:3, 3]
        return int(np.rint(np.linalg.solve(self.affine[:3, :3], away)[2]))

    @property
    def key(self) -> str:
        """The geometry as text, equal for equal geometries."""
        return f"{self.shape} {np.round(self.affine, 6).tolist()}"
