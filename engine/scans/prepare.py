"""From the arrays of a scan to the numbers that training reads: brain mask, robust scaling, 8-bit storage."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Grid
from ..processor import available_threads
from .case import LoadedCase
from .plausible import Intensities
from .resample import GridSampler

LABELS = 4  # background, NCR, ED, ET
LEVELS = 255  # stored value of +1; 0 is background (-1)


@dataclass(frozen=True)
class PreparedCase:
    """One case on the grid."""

    image: NDArray[np.uint8]  # (modality, x, y, z), 0 background, 1..255 brain
    label: NDArray[np.uint8]  # (x, y, z)
    scales: tuple[float, ...]  # raw value that became +1, one a modality


def prepare_case(case: LoadedCase, grid: Grid) -> PreparedCase:
    """Bring one case to the grid in RAS+, as it is placed, and scale each modality to [-1, 1], stored as 0..255.

    The brain is where any modality is not 0; on the grid, where its linearly resampled mask is at least one half.
    """
    raw, centre = case.raw, case.placement.centre_mm if case.placement.is_on_brain else None
    sampler = GridSampler(raw.label.shape, raw.affine, grid.shape, grid.spacing_mm, centre)
    on_grid = sampler.image(case.brain) >= 0.5

    def stored(image: NDArray, intensities: Intensities) -> NDArray[np.uint8]:
        exact = image.astype(np.result_type(image, np.float32))  # single precision where that holds every value
        np.clip(exact, 0, intensities.scale, out=exact)
        level = np.rint(sampler.image(exact.astype(np.float32, copy=False)) * np.float32(LEVELS / intensities.scale))
        return np.where(on_grid, np.clip(level, 1, LEVELS), 0).astype(np.uint8)

    with ThreadPoolExecutor(available_threads(), "prepare") as pool:
        made = np.stack(list(pool.map(stored, case.images, case.intensities)))
    scales = tuple(intensities.scale for intensities in case.intensities)
    return PreparedCase(made, sampler.label(case.label, LABELS), scales)


def to_unit(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Stored values 0..255 -> float32 in [-1, 1]; background is exactly -1."""
    return stored.astype(np.float32) * np.float32(2 / LEVELS) - np.float32(1)
