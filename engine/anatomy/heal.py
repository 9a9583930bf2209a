"""The healthy tissues of a brain where a lesion hides them: those of the other side, else of the surroundings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]

FARTHEST_MM = 18.0  # of the plane of symmetry from the middle of the field
EDGE_MM = 2.0  # deviation of the passage from what is filled to what is seen
AROUND_MM = 8.0  # deviation of the mean of the surroundings
_STRIDE = 2  # voxels that a plane is judged by


def healed(shares: FloatArray, lesion: Mask, spacing_mm: Sequence[float], by: int) -> FloatArray:
    """Shares (3, x, y, z) of white matter, grey matter and fluid as they may have been without the lesion.

    Args:
        shares: sum 1 in the brain, 0 outside it.
        lesion: (x, y, z).
        spacing_mm: of a voxel.
        by: `symmetry` of the brain.
    """
    if not lesion.any():
        return shares
    brain = shares.sum(axis=0) > 0.5
    wide = np.asarray(ndimage.binary_dilation(lesion)) & brain
    seen = brain & ~wide
    other, known = _flipped(shares, by), _flipped(seen[None], by)[0]
    sigma = [AROUND_MM / mm for mm in spacing_mm]
    weight = ndimage.gaussian_filter(seen.astype(np.float32), sigma) + np.float32(1e-6)
    around = np.stack([ndimage.gaussian_filter(part * seen, sigma) for part in shares]) / weight
    filled = np.where(known, other, around)
    edge = ndimage.gaussian_filter(wide.astype(np.float32), [EDGE_MM / mm for mm in spacing_mm])
    edge = np.where(lesion, np.float32(1), edge)
    made = shares + edge * (filled - shares)
    total = made.sum(axis=0)
    grey = np.zeros_like(made)
    grey[1] = 1
    made = np.where(total > 0.1, made / np.maximum(total, np.float32(0.1)), grey)
    return np.where(brain, made, 0).astype(np.float32)


def symmetry(shares: FloatArray, lesion: Mask, spacing_mm: Sequence[float]) -> int:
    """The shift in voxels after a flip along x that makes both sides look most alike, lesions left out.

    Voxel x of the other side is size - 1 + shift - x.
    """
    seen = (shares.sum(axis=0) > 0.5) & ~np.asarray(ndimage.binary_dilation(lesion), np.bool_)
    reach = int(2 * FARTHEST_MM / spacing_mm[0])
    parts, there = shares[:, :, ::_STRIDE, ::_STRIDE], seen[:, ::_STRIDE, ::_STRIDE]
    best, least = 0, np.inf
    for by in sorted(range(-reach, reach + 1), key=abs):
        both = there & _flipped(there[None], by)[0]
        if both.sum() < 0.5 * there.sum():
            continue
        apart = np.abs(_flipped(parts, by) - parts).sum(axis=0)[both].mean()
        if apart < least:
            best, least = by, apart
    return best


def _flipped(volumes: NDArray, by: int) -> NDArray:
    """(n, x, y, z) flipped along x and moved by voxels; zeros come in."""
    flipped, moved = volumes[:, ::-1], np.zeros_like(volumes)
    size = volumes.shape[1]
    moved[:, max(0, by) : min(size, size + by)] = flipped[:, max(0, -by) : min(size, size - by)]
    return moved
