"""Drafts of a cohort's cases, and what its tissues look like on average, which they are painted with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..engine.anatomy.draft import Levels, levels_of, painted
from ..engine.anatomy.shares import LEADING, tissue_shares
from ..engine.errors import InvalidInputError
from ..engine.scans.prepare import LEVELS
from .checkpoint import write_json
from .data.cohort import Cohort

DraftLevels = tuple[tuple[float, ...], ...]
"""(tissue, modality) 0..1: white matter, grey matter, fluid, then the tumour's tissues."""

DRAFTS_VERSION = 1  # raise it when the same case gives another draft
MEASURED_CASES = 64  # that levels are measured on, spread over the cohort


def measured_levels(cohort: Cohort, tissues: int) -> DraftLevels:
    """The mean signal of every tissue over the cohort."""
    cases = np.unique(np.linspace(0, len(cohort) - 1, min(MEASURED_CASES, len(cohort))).round().astype(int)).tolist()
    found = [_case_levels(cohort, case, tissues) for case in cases]
    total = Levels(np.sum([one.total for one in found], axis=0), np.sum([one.weight for one in found], axis=0))
    return tuple(tuple(round(float(level), 4) for level in row) for row in total.means())


def save_levels(folder: Path, levels: DraftLevels) -> None:
    """Keep them beside the latents of the drafts."""
    write_json(folder / "draft_levels.json", levels)


def load_levels(folder: Path) -> DraftLevels:
    """Those that were kept.

    Raises:
        InvalidInputError: there are none, the cohort was encoded by a version without drafts or not at all.
    """
    path = folder / "draft_levels.json"
    try:
        return tuple(map(tuple, json.loads(path.read_text("utf-8"))))
    except FileNotFoundError as error:
        raise InvalidInputError(f"{path}: missing; train the stage denoiser, which encodes the cohort") from error


def stored_draft(cohort: Cohort, case: int, levels: Sequence[Sequence[float]]) -> NDArray[np.uint8]:
    """The draft (z, M, x, y) of a case as its image is stored."""
    unit = painted(case_shares(cohort, case), _label(cohort, case), levels)
    return np.rint((unit + 1) * np.float32(LEVELS / 2)).astype(np.uint8)


def case_shares(cohort: Cohort, case: int) -> NDArray[np.float32]:
    """Shares (3, x, y, z) of the healthy tissues of a case."""
    image = _image(cohort, case)[[cohort.modalities.index(name) for name in LEADING]]
    return tissue_shares(image, _label(cohort, case), cohort.grid.spacing_mm)


def _case_levels(cohort: Cohort, case: int, tissues: int) -> Levels:
    return levels_of(_image(cohort, case), case_shares(cohort, case), _label(cohort, case), tissues)


def _image(cohort: Cohort, case: int) -> NDArray[np.float32]:
    return cohort.slices(case).transpose(1, 2, 3, 0).astype(np.float32) / np.float32(LEVELS)


def _label(cohort: Cohort, case: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(cohort.label(case).transpose(1, 2, 0))
