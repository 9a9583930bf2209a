"""Brain, tissue and neighbouring slices of one prepared case: what the measures of this folder look at."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..data.cohort import CachedCase, Cohort

BRAIN_LEVEL = 10  # of 255: what is darker in every modality counts as background
TISSUE_NAMES = ("healthy", "ncr", "ed", "et")
_TOUCHING = np.ones((3, 3, 3), bool)

Levels = NDArray[np.uint8]


def stored_case(entry: CachedCase) -> tuple[Levels, NDArray[np.uint8]]:
    """Images (z, modality, x, y) and label (z, x, y) of a prepared case; what a worker process is given is small."""
    stacked = np.load(entry.path)
    return stacked[:, :-1], stacked[:, -1]


def brain_of(slices: Levels) -> NDArray[np.bool_]:
    """Brain (z, x, y) of stored images (z, modality, x, y): the largest piece that is not dark everywhere, filled."""
    bright = slices.max(axis=1) >= BRAIN_LEVEL
    pieces, count = ndimage.label(bright, structure=_TOUCHING)  # pyright: ignore[reportGeneralTypeIssues]
    if count > 1:
        bright = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    return np.array([ndimage.binary_fill_holes(one) for one in bright], bool)


def neighbour_difference(slices: Levels, brain: NDArray[np.bool_], axis: int) -> float:
    """Mean absolute difference of neighbours along `axis` (0 z, 1 x, 2 y) that both lie in the brain.

    `slices` (z, modality, x, y), `brain` (z, x, y); in shares of the intensity range, NaN where no two neighbours do.
    """
    images = np.moveaxis(slices, 1, 0)
    length = brain.shape[axis]
    first, second = np.arange(length - 1), np.arange(1, length)
    both = brain.take(first, axis) & brain.take(second, axis)
    if not both.any():
        return float("nan")
    difference = np.abs(np.diff(images.astype(np.int16), axis=axis + 1))
    return float(difference[:, both].mean() / 255)


def tissue_histograms(slices: Levels, label: NDArray[np.uint8], brain: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Counts (tissue, modality, 256) of stored intensities; tissues as `TISSUE_NAMES`."""
    regions = [brain & (label == 0), *(label == value for value in (1, 2, 3))]
    return np.stack(
        [[np.bincount(image[region], minlength=256) for image in np.moveaxis(slices, 1, 0)] for region in regions]
    )


def largest_piece_share(mask: NDArray[np.bool_]) -> float:
    """Voxels of the largest 26-connected piece over all voxels of the mask; NaN for an empty one."""
    if not mask.any():
        return float("nan")
    pieces, _ = ndimage.label(mask, structure=_TOUCHING)  # pyright: ignore[reportGeneralTypeIssues]
    counts = np.bincount(pieces.ravel())[1:]
    return float(counts.max() / counts.sum())


def block_average(slices: NDArray[np.uint8], blocks: tuple[int, int, int] = (2, 4, 4)) -> NDArray[np.float32]:
    """Stored images (z, modality, x, y) -> float32 0..1, averaged over blocks of (z, x, y); a rest is cut off."""
    total = slices.astype(np.uint16)
    for axis, block in zip((0, 2, 3), blocks, strict=True):
        block = min(block, total.shape[axis])
        whole = total.take(range(total.shape[axis] // block * block), axis)
        apart = np.moveaxis(whole, axis, 0)
        total = np.moveaxis(sum((apart[k::block] for k in range(1, block)), start=apart[::block]), 0, axis)
    return (total / np.float32(255 * slices.size / total.size)).astype(np.float32)


def content_digest(cohort: Cohort, case: int) -> str:
    """sha256 of a prepared case's images and mask: equal for equal cases whatever they are called."""
    path = cohort.entries[case].path
    state = path.stat()
    return _digest(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=10_000)
def _digest(path: Path, size: int, written_ns: int) -> str:
    """Of the array in a file; size and time of writing tell one file of that name from the next."""
    del size, written_ns
    return hashlib.sha256(np.load(path).tobytes()).hexdigest()


def in_content_order(cohort: Cohort) -> list[int]:
    """The cases of a cohort sorted by their content's hash: an order that names have no part in."""
    return sorted(range(len(cohort)), key=lambda case: content_digest(cohort, case))
