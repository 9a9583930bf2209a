"""Bringing a scan of any orientation and spacing to the grid: RAS+, centred on the scan or where it is placed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from .placement import RasGrid

Array = NDArray[np.float32]

TRUNCATE = 4.0  # deviations of the smoothing that are kept


class GridSampler:
    """Resamples arrays of one scan geometry to the grid.

    Images: Gaussian smoothing against aliasing, sigma^2 = (s^2 - 1) / 6 source voxels with s = target step / source
    step (the variance that widens the triangle of linear interpolation from 1 to s voxels), then linear interpolation.
    Along the axes of an axis-aligned scan both are one small sparse matrix an axis; an oblique scan is smoothed, then
    interpolated as a volume.  Outside of the scan there is background (0).
    """

    def __init__(
        self,
        shape: Sequence[int],
        affine: NDArray[np.float64],
        grid_shape: Sequence[int],
        spacing_mm: Sequence[float],
        centre_mm: Sequence[float] | None = None,
    ) -> None:
        """`shape` (x, y, z) and `affine` (4, 4) are those of the file, `grid_shape` and `spacing_mm` of the grid;
        `centre_mm` is the grid's centre in RAS, by default the scan's."""
        self.grid_shape = tuple(int(n) for n in grid_shape)
        self.spacing_mm = tuple(float(s) for s in spacing_mm)
        self.source = RasGrid.of(affine, tuple(shape))
        centre = self.source.centre_mm
        moved = np.zeros(3) if centre_mm is None else np.asarray(centre_mm, np.float64) - centre
        self.affine = np.diag([*self.spacing_mm, 1.0])
        self.affine[:3, 3] = centre + moved - (np.asarray(self.grid_shape) - 1) / 2 * np.asarray(self.spacing_mm)
        self._to_source = np.linalg.inv(self.source.affine) @ self.affine
        if not self.source.is_oblique:
            steps = self.source.spacing_mm
            pairs = list(zip(self.source.shape, steps, self.grid_shape, self.spacing_mm, moved / steps, strict=True))
            self._smooth = [axis_weights(*pair, antialias=True) for pair in pairs]
            self._sharp = [axis_weights(*pair, antialias=False) for pair in pairs]

    def image(self, ras: NDArray) -> Array:
        """An image (x, y, z) in RAS -> float32 on the grid, antialiased."""
        if self.source.is_oblique:
            sigma = _antialias_sigma(np.asarray(self.spacing_mm) / np.asarray(self.source.spacing_mm))
            smooth = ndimage.gaussian_filter(ras.astype(np.float32), sigma, mode="constant", truncate=TRUNCATE)
            return self._oblique(smooth)
        return _apply(ras, self._smooth)

    def label(self, ras: NDArray[np.integer], classes: int) -> NDArray[np.uint8]:
        """Labels (x, y, z) in RAS, values 0..classes-1 -> uint8 on the grid: each label linearly, then the largest."""
        shares = np.zeros((classes, *self.grid_shape), np.float32)
        for value in range(1, classes):
            mask = ras == value
            if mask.any():
                shares[value] = (
                    self._oblique(mask.astype(np.float32)) if self.source.is_oblique else _apply(mask, self._sharp)
                )
        shares[0] = 1 - shares[1:].sum(axis=0)
        return shares.argmax(axis=0).astype(np.uint8)

    def _oblique(self, ras: NDArray) -> Array:
        matrix, offset = self._to_source[:3, :3], self._to_source[:3, 3].tolist()
        target = np.empty(self.grid_shape, np.float32)
        ndimage.affine_transform(ras, matrix, offset, output=target, order=1, mode="grid-constant")
        return target


def axis_weights(
    size: int, step_mm: float, target_size: int, target_step_mm: float, moved: float = 0.0, *, antialias: bool
) -> tuple[slice, sparse.csr_array]:
    """Interpolation along one axis: the source voxels that count, and weights (target_size, voxels that count).

    The target's centre lies `moved` source voxels from the source's.  Rows sum to 1 inside of the scan, to less where
    they reach beyond it.
    """
    ratio = target_step_mm / step_mm
    centres = (np.arange(target_size) - (target_size - 1) / 2) * ratio + (size - 1) / 2 + moved
    kernel = _gaussian(ratio if antialias else 1.0)
    reach = kernel.size // 2 + 1
    positions = np.arange(int(np.floor(centres[0])) - reach, int(np.ceil(centres[-1])) + reach + 1)
    linear = np.maximum(0, 1 - np.abs(positions[None] - centres[:, None]))
    weights = np.stack([np.convolve(row, kernel, mode="same") for row in linear])
    counting = np.flatnonzero((positions >= 0) & (positions < size) & (weights > 0).any(axis=0))
    if counting.size == 0:
        return slice(0, 1), sparse.csr_array((target_size, 1), dtype=np.float32)
    first, last = counting[0], counting[-1] + 1
    kept = sparse.csr_array(weights[:, first:last].astype(np.float32))
    return slice(int(positions[first]), int(positions[last - 1]) + 1), kept


def _antialias_sigma(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """Deviation of the smoothing in source voxels, for steps `ratio` times the source's."""
    return np.sqrt(np.maximum(ratio**2 - 1, 0) / 6)


def _gaussian(ratio: float) -> NDArray[np.float64]:
    sigma = float(_antialias_sigma(np.asarray(ratio)))
    if sigma == 0:
        return np.ones(1)
    reach = int(TRUNCATE * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return kernel / kernel.sum()


def _apply(ras: NDArray, axes: Sequence[tuple[slice, sparse.csr_array]]) -> Array:
    """Multiply (x, y, z) by the weights of its three axes, the slice axis first since it shrinks most.

    Sparse products run on one thread in a fixed order, so the result does not depend on the machine's linear algebra.
    """
    (at_x, along_x), (at_y, along_y), (at_z, along_z) = axes
    array = ras[at_x, at_y, at_z].T
    for weights in (along_z, along_y, along_x):
        leading = np.ascontiguousarray(array, np.float32).reshape(array.shape[0], -1)
        array = np.moveaxis((weights @ leading).reshape(-1, *array.shape[1:]), 0, -1)
    return array.T
