"""The tumours of a run beside those of a real cohort."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from ..errors import InvalidInputError
from ..scans.measure import measure_cohort
from ..scans.options import ReadOptions
from .facts import Cohort, RunFacts
from .plots import histogram
from .words import Quantity


@dataclass(frozen=True)
class Side:
    """One cohort's values of a quantity, in the unit shown."""

    cases: int
    median: str
    middle: str  # the middle half of the cases


@dataclass(frozen=True)
class Distribution:
    """A quantity in both cohorts."""

    quantity: Quantity
    synthetic: Side
    real: Side
    distance: str  # Wasserstein, in deviations of the real cohort
    plot: Markup


@dataclass(frozen=True)
class Compared:
    """Both cohorts side by side."""

    cases: int  # real ones that were measured
    distributions: tuple[Distribution, ...]
    faults: tuple[str, ...]  # real cases that are left out, and why
    warnings: tuple[str, ...]


def compare(
    facts: RunFacts,
    kinds: tuple[Quantity, ...],
    real: Path,
    options: ReadOptions,
    advance: Callable[[int, int], None],
) -> Compared:
    """Measure a real cohort under the run's field of view, and compare quantity by quantity; without samples of ours.

    Raises:
        InvalidInputError: no directory, or no case that can be measured.
    """
    columns = tuple(kind.column for kind in kinds)
    measured = measure_cohort(real, columns, facts.run.bundle.grid.fov_mm, advance, options).of_others()
    if not measured.names:
        told = "\n".join((*measured.faults, *measured.warnings))
        raise InvalidInputError(f"--real {real}: no real case can be measured:\n{told}")
    found = (_distribution(kind, facts.cohort, measured.rows[:, k], k) for k, kind in enumerate(kinds))
    told = tuple(one for one in found if one is not None)
    return Compared(len(measured.names), told, measured.faults, measured.warnings)


def _distribution(kind: Quantity, cohort: Cohort, real: NDArray[np.float64], k: int) -> Distribution | None:
    """None where a cohort has no such value."""
    synthetic, real = (kind.shown(0) + kind.factor * v[np.isfinite(v)] for v in (cohort.measured[:, k], real))
    if not synthetic.size or not real.size:
        return None
    spread = float(real.std())
    distance = f"{wasserstein_distance(synthetic, real) / spread:.2f}" if spread > 0 else "–"
    plot = histogram(kind.name, kind.unit, synthetic, real)
    return Distribution(kind, _side(kind, synthetic), _side(kind, real), distance, plot)


def _side(kind: Quantity, values: NDArray[np.float64]) -> Side:
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
    return Side(len(values), f"{middle:.{kind.digits}f}", f"{low:.{kind.digits}f} to {high:.{kind.digits}f}")
