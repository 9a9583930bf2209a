"""Blocks and boxes of voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

FloatArray = NDArray[np.float32]
Box = tuple[slice, slice, slice]

_TRUNCATE = 4.0  # deviations that a Gaussian filter reaches


def block_sums(volume: FloatArray, sides: Sequence[int]) -> FloatArray:
    """Sums of a volume (x, y, z) over blocks of `sides` voxels, what is short of one filled with zeros."""
    padded = np.pad(volume, np.array([(0, -n % side) for n, side in zip(volume.shape, sides, strict=True)]))
    x, y, z = (n // side for n, side in zip(padded.shape, sides, strict=True))
    return padded.reshape(x, sides[0], y, sides[1], z, sides[2]).sum(axis=(1, 3, 5))


def block_means(volume: FloatArray, sides: Sequence[int]) -> FloatArray:
    """The means."""
    return block_sums(volume, sides) / np.float32(np.prod(sides))


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """The smallest box around the True voxels, empty where there are none."""
    filled = [np.flatnonzero(counts) for counts in profiles(mask)]
    x, y, z = (slice(int(at[0]), int(at[-1]) + 1) if at.size else slice(0, 0) for at in filled)
    return x, y, z


def profiles(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """How many voxels are True in each plane across x, y and z."""
    flipped = [axis for axis in range(3) if mask.strides[axis] < 0]
    stored = np.flip(mask, tuple(flipped))
    order = np.argsort([-stride for stride in stored.strides])  # slowest axis first: planes are one piece of memory
    ordered = np.transpose(stored, order)
    kind = np.uint8 if len(ordered) <= 255 else np.uint32
    table = np.add.reduce(ordered.view(np.uint8), axis=0, dtype=kind)
    counts = [np.array([np.count_nonzero(plane) for plane in ordered]), table.sum(axis=1), table.sum(axis=0)]
    found = {int(axis): np.asarray(count, np.int64) for axis, count in zip(order, counts, strict=True)}
    return [found[axis][::-1] if axis in flipped else found[axis] for axis in range(3)]


def blurred_in(box: Box, values: NDArray[np.float32] | NDArray[np.bool_], sigma: Sequence[float]) -> FloatArray:
    """What `scipy.ndimage.gaussian_filter` gives in a box, from the voxels alone that it follows from."""
    reach = [blur_reach(width) for width in sigma]
    around = [slice(max(0, s.start - far), s.stop + far) for s, far in zip(box, reach, strict=True)]
    blurred = np.asarray(values[tuple(around)], np.float32)
    for axis, (width, within, seen) in enumerate(zip(sigma, box, around, strict=True)):
        line = np.asarray(gaussian_filter1d(blurred, width, axis, truncate=_TRUNCATE), np.float32)
        kept = slice(within.start - seen.start, within.stop - seen.start)
        blurred = line[tuple(kept if a == axis else slice(None) for a in range(3))]
    return blurred


def blur_reach(sigma: float) -> int:
    """Voxels that the filter reaches."""
    return int(_TRUNCATE * sigma + 0.5)
