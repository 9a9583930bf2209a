"""The noise of a scan where a part of it is made anew: as strong, and as alike from voxel to voxel, as around it.

A decoder draws tissue without noise, so a lesion put into a scan would be too smooth. Measured is what the decoder
leaves out of the scan itself, in flat tissue around the lesion; drawn are normals with that deviation, smoothed along
each axis until neighbours are as alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

SIDE = 48  # voxels of the cube of noise that a scan is tiled with
NUMBERS = SIDE**3
"""Normals that the noise of a modality takes."""

_MOST_ALIKE = 0.65  # correlation of neighbours that a kernel of three weights reaches
_FEWEST = 500  # voxels that noise is measured on
_MAD = 1.4826  # deviation of a normal over the median of its absolute values

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class ScanNoise:
    """Noise of one modality."""

    deviation: float  # in the scan's own scale; 0 where too little tissue is seen
    alike: tuple[float, float, float]  # correlation of neighbours along the axes

    @staticmethod
    def of(residual: FloatArray, shown: FloatArray, around: Mask) -> ScanNoise:
        """What is left out of a scan in the flatter half of some tissue.

        Args:
            residual: (x, y, z) the scan without what the decoder shows of it.
            shown: (x, y, z) what the decoder shows.
            around: (x, y, z) the tissue.
        """
        slope = np.sum([np.square(np.gradient(shown, axis=axis)) for axis in range(3)], axis=0)
        flat = around & (slope <= np.median(slope[around])) if around.any() else around
        if np.count_nonzero(flat) < _FEWEST:
            return ScanNoise(0.0, (0.0, 0.0, 0.0))
        middle = float(np.median(residual[flat]))
        deviation = _MAD * float(np.median(np.abs(residual[flat] - middle)))
        held = np.where(flat, np.clip(residual - middle, -3 * deviation, 3 * deviation), np.float32(0))
        x, y, z = (_alike(np.moveaxis(held, axis, 0), np.moveaxis(flat, axis, 0)) for axis in range(3))
        return ScanNoise(deviation, (x, y, z))

    def drawn(self, normals: FloatArray, box: Sequence[slice]) -> FloatArray:
        """Noise (x, y, z) of a box of the scan's voxels, from `NUMBERS` normals: the same voxel has the same noise."""
        cube = normals.reshape(SIDE, SIDE, SIDE)
        for axis, alike in enumerate(self.alike):
            weight = (1 - sqrt(1 - 2 * alike**2)) / (2 * alike) if alike > 0 else 0.0
            kernel = np.array([weight, 1.0, weight]) / sqrt(1 + 2 * weight**2)
            cube = convolve1d(cube, kernel, axis=axis, mode="wrap")
        at = np.ix_(*[np.arange(side.start, side.stop) % SIDE for side in box])
        return (np.float32(self.deviation) * cube[at]).astype(np.float32)


def _alike(held: FloatArray, flat: Mask) -> float:
    """Correlation of neighbours along the first axis, held within what a kernel can have."""
    pairs = flat[1:] & flat[:-1]
    one, other = held[1:][pairs], held[:-1][pairs]
    spread = float(np.mean(np.square(held[flat])))
    if not one.size or spread == 0:
        return 0.0
    return float(np.clip(np.mean(one * other) / spread, 0, _MOST_ALIKE))
