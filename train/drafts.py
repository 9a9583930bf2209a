"""Drafts of a cohort's cases, and what its tissues look like on average, which they are painted with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..engine.anatomy.draft import Levels, levels_of, painted
from ..engine.anatomy.shares import LEADING, tissue_shares
from ..engine.scans.prepare import LEVELS
from .checkpoint import write_json
from .data.cohort import Cohort
from .shared_store import read_beside

DraftLevels = tuple[tuple[float, ...], ...]
"""(tissue, modality) 0..1: white matter, grey matter, fluid, then the tumour's tissues."""

DRAFTS_VERSION = 1  # raise it when the same case gives another draft
_NAME = "draft_levels.json"
MEASURED_CASES = 64  # that levels are measured on, spread over the cohort


class Drafts:
    """Drafts of a cohort's cases. Tissues of those that levels are measured on are kept until they are drafted."""

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self._kept: dict[int, tuple[NDArray[np.bool_], NDArray[np.float32]]] = {}  # where the brain is, what is there

    def measured_levels(self, tissues: int) -> DraftLevels:
        """The mean signal of every tissue over the cohort."""
        count = len(self.cohort)
        cases = np.unique(np.linspace(0, count - 1, min(MEASURED_CASES, count)).round().astype(int)).tolist()
        found = [self._case_levels(case, tissues) for case in cases]
        total = Levels(np.sum([one.total for one in found], axis=0), np.sum([one.weight for one in found], axis=0))
        return tuple(tuple(round(float(level), 4) for level in row) for row in total.means())

    def stored(self, case: int, levels: DraftLevels) -> NDArray[np.uint8]:
        """The draft (z, M, x, y) of a case as its image is stored."""
        unit = painted(self._shares(case), case_label(self.cohort, case), levels)
        return np.rint((unit + 1) * np.float32(LEVELS / 2)).astype(np.uint8)

    def _case_levels(self, case: int, tissues: int) -> Levels:
        shares = case_shares(self.cohort, case)
        brain = np.asarray(shares.any(axis=0))
        self._kept[case] = brain, shares[:, brain]
        return levels_of(case_image(self.cohort, case), shares, case_label(self.cohort, case), tissues)

    def _shares(self, case: int) -> NDArray[np.float32]:
        if case not in self._kept:
            return case_shares(self.cohort, case)
        brain, inside = self._kept.pop(case)
        shares = np.zeros((len(inside), *brain.shape), np.float32)
        shares[:, brain] = inside
        return shares


def save_levels(folder: Path, levels: DraftLevels) -> None:
    """Keep them beside the latents of the drafts."""
    write_json(folder / _NAME, levels)


def load_levels(folder: Path) -> DraftLevels:
    """Those that were kept; InvalidInputError where there are none."""
    return tuple(map(tuple, read_beside(folder, _NAME)))


def case_shares(cohort: Cohort, case: int) -> NDArray[np.float32]:
    """Shares (3, x, y, z) of the healthy tissues of a case."""
    image = case_image(cohort, case)[[cohort.modalities.index(name) for name in LEADING]]
    return tissue_shares(image, case_label(cohort, case), cohort.grid.spacing_mm)


def case_image(cohort: Cohort, case: int) -> NDArray[np.float32]:
    """Its image (M, x, y, z), 0..1."""
    return cohort.slices(case).transpose(1, 2, 3, 0).astype(np.float32) / np.float32(LEVELS)


def case_label(cohort: Cohort, case: int) -> NDArray[np.uint8]:
    """Its label (x, y, z)."""
    return np.ascontiguousarray(cohort.label(case).transpose(1, 2, 0))
