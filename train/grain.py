"""How much fine noise the scans of a cohort have beyond what their autoencoder keeps: `engine/sampling/grain.py`."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from .checkpoint import write_json
from .data.cohort import Cohort
from .data.draws import real_cases
from .drafts import case_image, case_label
from .networks.slab_autoencoder import SlabAutoencoder
from .shared_store import read_beside
from .slab_volumes import reconstructed

Grain = tuple[tuple[float, float], ...]
"""(modality, 2): deviation of the noise where the signal is 0 and where it is 1, signal 0..1."""

GRAIN_VERSION = 1  # raise it when the same cohort gives another grain
MEASURED_CASES = 16  # spread over the cohort; scans of patients alone where there are any
_NAME = "grain.json"
_BINS = 12  # of the signal
_RIM = 3  # voxels at the brain's surface that are left out
_LARGEST = 4.0  # robust deviations; what differs by more is structure: a vessel, an edge


def measured_grain(autoencoder: SlabAutoencoder, cohort: Cohort, slices: int) -> Grain:
    """Deviation of what the autoencoder leaves out, as a line over the signal, of each modality."""
    cases = np.flatnonzero(real_cases(cohort)) if real_cases(cohort).any() else np.arange(len(cohort))
    picked = np.unique(np.linspace(0, len(cases) - 1, min(MEASURED_CASES, len(cases))).round().astype(int))
    count, power = np.zeros((2, len(cohort.modalities), _BINS))
    for case in cases[picked].tolist():
        image = case_image(cohort, case)
        inside = cast("NDArray[np.bool_]", binary_erosion(image.any(axis=0), iterations=_RIM))
        if not inside.any():
            continue
        device = next(autoencoder.parameters()).device
        made = reconstructed(autoencoder, cohort.slices(case), case_label(cohort, case), slices, _autocast(device))
        for modality, (scan, seen) in enumerate(zip(image[:, inside], made[:, inside], strict=True)):
            left_out = scan - seen
            kept = np.abs(left_out) < _LARGEST * 1.4826 * np.median(np.abs(left_out))
            at = np.clip((seen[kept] * _BINS).astype(int), 0, _BINS - 1)
            count[modality] += np.bincount(at, minlength=_BINS)
            power[modality] += np.bincount(at, np.square(left_out[kept]), _BINS)
    return tuple(_line(*both) for both in zip(count, power, strict=True))


def _line(count: NDArray[np.float64], power: NDArray[np.float64]) -> tuple[float, float]:
    """Deviations at 0 and 1 of the straight line through those of the bins, each bin as its voxels count."""
    at = (np.arange(_BINS) + 0.5) / _BINS
    weight, deviation = np.sqrt(count), np.sqrt(power / np.maximum(count, 1))
    sides = np.stack([1 - at, at], axis=1) * weight[:, None]
    dark, bright = np.linalg.lstsq(sides, deviation * weight, rcond=None)[0].clip(0, 1)
    return round(float(dark), 4), round(float(bright), 4)


def _autocast(device: torch.device) -> torch.dtype | None:
    return torch.bfloat16 if device.type == "cpu" else None


def save_grain(folder: Path, grain: Grain) -> None:
    """Keep it beside the latents."""
    write_json(folder / _NAME, grain)


def load_grain(folder: Path) -> Grain:
    """What was kept; InvalidInputError where there is none."""
    return tuple((dark, bright) for dark, bright in read_beside(folder, _NAME))
