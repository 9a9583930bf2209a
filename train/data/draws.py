"""How often training draws each case of a cohort."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .cohort import CachedCase, Cohort

ORIGINAL_WEIGHT, COPY_WEIGHT = 2.0, 1.0


def case_weight(entry: CachedCase) -> float:
    """A case counts twice as much as each of its varied copies."""
    return COPY_WEIGHT if entry.copy else ORIGINAL_WEIGHT


def chances(cohort: Cohort) -> NDArray[np.float64]:
    """Chances of the cases, of sum 1: real scans and phantoms take half of the draws each where both are there."""
    weights = np.array([case_weight(entry) for entry in cohort.entries])
    real = real_cases(cohort)
    parts = [np.where(part, weights, 0.0) for part in (real, ~real) if part.any()]
    return np.sum([part / part.sum() for part in parts], axis=0) / len(parts)


def real_cases(cohort: Cohort) -> NDArray[np.bool_]:
    """Which cases are real scans, or copies of some."""
    return np.array([source == "real" for source in cohort.sources])
