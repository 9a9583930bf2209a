"""How strong the fine noise of a cohort's scans is: `engine/sampling/grain.py` lays it over what is sampled.

It is measured where nothing else varies as fast: deep in healthy white matter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..engine.sampling.grain import grain_numbers, with_grain
from .checkpoint import write_json
from .data.cohort import Cohort
from .data.draws import real_cases
from .drafts import case_image, case_label, case_shares
from .shared_store import read_beside

Grain = tuple[tuple[float, float], ...]
"""(modality, 2): deviation of the noise where the signal is 0 and where it is 1, signal 0..1."""

GRAIN_VERSION = 2  # raise it when the same cohort gives another grain
MEASURED_CASES = 16  # spread over the cohort; scans of patients alone where there are any
FLAT = 0.95  # share of white matter in voxels that are looked at, and in all around them
_AROUND = np.ones((5, 5, 3))
_FROM_TUMOUR = 2  # voxels
_LEAST = 200  # voxels of a case, for its noise to be told
_FINE_PIXELS = 1.5  # deviation of the Gaussian in plane that noise is finer than
_NAME = "grain.json"


def measured_grain(cohort: Cohort) -> Grain:
    """The mean over cases of the noise in flat white matter, the same at every signal; 0 where there is none."""
    cases = np.flatnonzero(real_cases(cohort)) if real_cases(cohort).any() else np.arange(len(cohort))
    picked = np.unique(np.linspace(0, len(cases) - 1, min(MEASURED_CASES, len(cases))).round().astype(int))
    spacing_mm = cohort.grid.spacing_mm
    found = [noise for case in cases[picked].tolist() if (noise := _noise(cohort, case)) is not None]
    if not found:
        return ((0.0, 0.0),) * len(cohort.modalities)
    deviations = np.mean(found, axis=0) / _fine_share_of_grain(spacing_mm)
    levels = [round(float(value), 4) for value in deviations.clip(0, 1)]
    return tuple(zip(levels, levels, strict=True))


def _noise(cohort: Cohort, case: int) -> NDArray[np.float64] | None:
    """Robust deviation (M,) of the fine band in a case's flat white matter; None where it has too little."""
    around = ndimage.binary_dilation(case_label(cohort, case) > 0, iterations=_FROM_TUMOUR)
    flat = ndimage.binary_erosion(case_shares(cohort, case)[0] > FLAT, _AROUND) & ~np.asarray(around, bool)
    if np.count_nonzero(flat) < _LEAST:
        return None
    fine = _fine(case_image(cohort, case), cohort.grid.spacing_mm)
    return 1.4826 * np.median(np.abs(fine[:, flat]), axis=1).astype(np.float64)


def _fine(image: NDArray[np.float32], spacing_mm: tuple[float, float, float]) -> NDArray[np.float32]:
    sigma = [_FINE_PIXELS * spacing_mm[0] / mm for mm in spacing_mm]
    return image - np.asarray(ndimage.gaussian_filter(image, (0, *sigma), truncate=3.0), np.float32)


def _fine_share_of_grain(spacing_mm: tuple[float, float, float]) -> float:
    """Deviation of the fine band of grain of deviation 1."""
    image = np.zeros((1, 48, 48, 48), np.float32)
    normals = np.random.default_rng(0).standard_normal(grain_numbers(image.shape), np.float32)
    normals[0] = 0  # as strong as the mean volume's
    return float(_fine(with_grain(image, [(1.0, 1.0)], normals), spacing_mm).std())


def save_grain(folder: Path, grain: Grain) -> None:
    """Keep it beside the latents."""
    write_json(folder / _NAME, grain)


def load_grain(folder: Path) -> Grain:
    """What was kept; InvalidInputError where there is none."""
    return tuple((dark, bright) for dark, bright in read_beside(folder, _NAME))
