"""Where in a brain a mask finds room."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..blocks import block_means

_PLACES_MM = 4.0

Mask = NDArray[np.bool_]
Label = NDArray[np.uint8]
Sides = tuple[float, float, float]


def places(label: Label, brain: Mask, spacing_mm: Sides) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Shifts (n, 3) in voxels, about `_PLACES_MM` apart, and the share of the mask that the brain then holds."""
    steps = [max(1, round(_PLACES_MM / mm)) for mm in spacing_mm]
    coarse, room = (block_means(mask.astype(np.float32), steps).astype(np.float64) for mask in (label > 0, brain))
    at = ndimage.find_objects((coarse > 0).astype(np.uint8))[0]
    kernel = coarse[at] / coarse.sum()
    whole = [n + m - 1 for n, m in zip(room.shape, kernel.shape, strict=True)]
    spectra = [np.fft.rfftn(volume, whole, axes=(0, 1, 2)) for volume in (room, kernel[::-1, ::-1, ::-1])]
    held = np.fft.irfftn(spectra[0] * spectra[1], whole, axes=(0, 1, 2))
    first = np.array([side.start for side in at]) + np.array(kernel.shape) - 1
    shifts = (np.indices(held.shape).reshape(3, -1).T - first) * steps
    return shifts, np.round(held.reshape(-1), 6)


def nearest_place(label: Label, brain: Mask, spacing_mm: Sides, held: float) -> Label:
    """The mask moved as little as possible so that the brain holds this share of it, or as much as it can; the rest
    is cut off.
    """
    if np.count_nonzero(label[brain]) < held * np.count_nonzero(label):
        shifts, shares = places(label, brain, spacing_mm)
        good = shares >= min(held, shares.max())
        far = np.where(good, np.linalg.norm(shifts * np.array(spacing_mm), axis=1), np.inf)
        label = shifted(label, shifts[int(np.argmin(far))].tolist())
    return np.where(brain, label, np.uint8(0))


def shifted(label: Label, by: Sequence[int]) -> Label:
    """The mask moved by whole voxels; what leaves the array is lost."""
    moved = np.zeros_like(label)
    source = tuple(slice(max(0, -b), min(n, n - b)) for n, b in zip(label.shape, by, strict=True))
    target = tuple(slice(max(0, b), min(n, n + b)) for n, b in zip(label.shape, by, strict=True))
    moved[target] = label[source]
    return moved
