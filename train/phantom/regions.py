"""Typed forms of the few scipy.ndimage operations on masks and maps that phantoms use."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter, label

Mask = NDArray[np.bool_]
FloatArray = NDArray[np.float32]


def blurred(values: FloatArray, deviation: float) -> FloatArray:
    """`values` under a Gaussian of this deviation in voxels."""
    return cast(FloatArray, gaussian_filter(values, deviation))


def box_of(mask: Mask) -> tuple[slice, ...]:
    """The smallest box around what is inside `mask`, an empty one where nothing is."""
    parts = []
    for axis in range(mask.ndim):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        parts.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0))
    return tuple(parts)


def depth_of(mask: Mask) -> NDArray[np.float64]:
    """Distance in voxels of what is inside `mask` to the nearest voxel outside; 0 outside."""
    return cast("NDArray[np.float64]", distance_transform_edt(mask))


def without_holes(mask: Mask) -> Mask:
    """`mask` with its enclosed cavities filled."""
    return cast(Mask, binary_fill_holes(mask))


def pieces_of_at_least(mask: Mask, size: int) -> Mask:
    """The pieces of `mask`, connected by faces, that hold `size` voxels or more."""
    pieces, sizes = _pieces(mask)
    return (sizes >= size)[pieces]


def largest_piece(mask: Mask) -> Mask:
    """The largest of the pieces of `mask`, connected by faces."""
    pieces, sizes = _pieces(mask)
    return pieces == int(sizes.argmax()) if sizes.any() else mask


def _pieces(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number of the piece a voxel, 0 outside, and the voxels of every piece, none for number 0."""
    pieces, _ = cast("tuple[NDArray[np.int32], int]", label(mask))
    sizes = np.bincount(pieces.ravel()).astype(np.int64)
    sizes[0] = 0
    return pieces, sizes
