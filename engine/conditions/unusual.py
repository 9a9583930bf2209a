"""Which requests lie outside of what the training cohort held: by single cells, and by all given cells together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from .columns import SHARE_COLUMNS, Conditions
from .distribution import PERCENTILE, CohortDistribution

MAX_WARNINGS = 20
ROUNDING = 1e-5  # relative; tables hold six significant digits
_DEVIATIONS = float(ndtri(PERCENTILE))
_RISES_WITH = dict(zip(SHARE_COLUMNS, ((1, -1), (-1, -1), (-1, 1)), strict=True))  # log(NCR / ED), log(ET / ED)

Vector = NDArray[np.float64]
Measured = tuple[Vector, Vector, NDArray[np.bool_]]


def column_ranges(cohort: CohortDistribution) -> Vector:
    """The smallest and largest value (K, 2) of each column in the cohort, in the columns' own units.

    Volume, sphericity and centre are coordinates of the distribution: their ranges are the cohort's own. Surface and
    box depend on two coordinates; theirs reach from the 0.1st to the 99.9th percentile of the fitted distribution, no
    farther than the ranges of both coordinates allow. A share's is what the ranges of both ratios allow.
    """
    ranges = np.empty((len(cohort.columns), 2))
    low, high = np.array(cohort.low), np.array(cohort.high)
    mean, covariance = np.array(cohort.mean), np.array(cohort.covariance)
    for k, name in enumerate(cohort.columns):
        rises = _gradient(cohort, name)
        corners = np.stack([np.where(rises > 0, low, high), np.where(rises > 0, high, low)])
        ranges[k] = cohort.basis.rows(corners)[:, k]
        if np.count_nonzero(rises) > 1 and name not in SHARE_COLUMNS:
            step = _DEVIATIONS * covariance @ rises / np.sqrt(rises @ covariance @ rises)
            fitted = cohort.basis.rows(np.stack([mean - step, mean + step]))[:, k]
            ranges[k] = max(ranges[k, 0], fitted[0]), min(ranges[k, 1], fitted[1])
    return ranges


class UnusualRows:
    """Finds, while a table is read, the rows unlike the cohort.

    Such a row is farther from the cohort than its 99.9th percentile, or gives a cell outside of `column_ranges`.
    """

    def __init__(self, cohort: CohortDistribution) -> None:
        self._cohort, self._ranges = cohort, column_ranges(cohort)
        self._told: list[str] = []
        self._count = 0

    def measure(self, rows: Conditions) -> Measured:
        """Distance of each row and its limit, (N,), and which cells are out of range, (N, K)."""
        low, high = self._ranges[:, 0] * (1 - ROUNDING), self._ranges[:, 1] * (1 + ROUNDING)
        return *self._cohort.mahalanobis(rows.values), (rows.values < low) | (rows.values > high)

    def add(self, rows: Conditions, measured: Measured) -> None:
        """Take what `measure` said of the next rows."""
        distance, limit, outside = measured
        unusual = np.flatnonzero((distance > limit) | outside.any(axis=1)).tolist()
        self._count += len(unusual)
        for row in unusual[: MAX_WARNINGS - len(self._told)]:
            far = distance[row] > limit[row]
            told = [f"Mahalanobis distance {distance[row]:.1f}, 99.9th percentile {limit[row]:.1f}"] if far else []
            told += _cells(rows, row, outside[row], self._ranges)
            where = "far from" if far else "outside of"
            self._told.append(
                f"{rows.place(row)}: {_named(rows, row)}{where} the {self._cohort.cases} training cases: "
                f"{'; '.join(told)}; the model may not follow it"
            )

    def messages(self, source: str) -> list[str]:
        """A message for each such row of the table `source`, at most MAX_WARNINGS, and their number."""
        more = self._count > MAX_WARNINGS
        return self._told + [f"{source}: {self._count} rows far from the training cases in all"] * more


def _gradient(cohort: CohortDistribution, name: str) -> Vector:
    """How a column changes with each coordinate (B,); of a share the signs alone."""
    if name in SHARE_COLUMNS:
        return np.concatenate([np.zeros(cohort.basis.size - 2), np.array(_RISES_WITH[name], np.float64)])
    row = np.full((1, len(cohort.columns)), np.nan)
    row[0, cohort.columns.index(name)] = 0.5
    return cohort.basis.observations(row)[0][0]


def _cells(conditions: Conditions, row: int, outside: NDArray[np.bool_], ranges: Vector) -> Iterator[str]:
    for k in np.flatnonzero(outside).tolist():
        low, high = ranges[k]
        yield f"{conditions.columns[k]} is {conditions.values[row, k]:g}, theirs {low:.3g} to {high:.3g}"


def _named(conditions: Conditions, row: int) -> str:
    return f"id {conditions.ids[row]} is " if conditions.ids[row] else ""
