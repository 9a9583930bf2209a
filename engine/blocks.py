"""Blocks of voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def block_sums(volume: FloatArray, sides: Sequence[int]) -> FloatArray:
    """Sums of a volume (x, y, z) over blocks of `sides` voxels, what is short of one filled with zeros."""
    padded = np.pad(volume, np.array([(0, -n % side) for n, side in zip(volume.shape, sides, strict=True)]))
    x, y, z = (n // side for n, side in zip(padded.shape, sides, strict=True))
    return padded.reshape(x, sides[0], y, sides[1], z, sides[2]).sum(axis=(1, 3, 5))


def block_means(volume: FloatArray, sides: Sequence[int]) -> FloatArray:
    """The means."""
    return block_sums(volume, sides) / np.float32(np.prod(sides))
