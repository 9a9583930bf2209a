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


def unusual_rows(conditions: Conditions, cohort: CohortDistribution) -> list[str]:
    """A message for each row unlike the cohort, at most MAX_WARNINGS and their number.

    Such a row is farther from the cohort than its 99.9th percentile, or gives a cell outside of `column_ranges`.
    """
    distance, limit = cohort.mahalanobis(conditions.values)
    ranges = column_ranges(cohort)
    low, high = ranges[:, 0] * (1 - ROUNDING), ranges[:, 1] * (1 + ROUNDING)
    outside = (conditions.values < low) | (conditions.values > high)
    rows = np.flatnonzero((distance > limit) | outside.any(axis=1)).tolist()
    messages = []
    for row in rows[:MAX_WARNINGS]:
        far = distance[row] > limit[row]
        told = [f"Mahalanobis distance {distance[row]:.1f}, 99.9th percentile {limit[row]:.1f}"] if far else []
        told += _cells(conditions, row, outside[row], ranges)
        where = "far from" if far else "outside of"
        messages.append(
            f"{conditions.place(row)}: {_named(conditions, row)}{where} the {cohort.cases} training cases: "
            f"{'; '.join(told)}; the model may not follow it"
        )
    if len(rows) > MAX_WARNINGS:
        messages.append(f"{conditions.source}: {len(rows)} rows far from the training cases in all")
    return messages


def _gradient(cohort: CohortDistribution, name: str) -> Vector:
    """How a column changes with each coordinate (B,); of a share the signs alone."""
    if name in SHARE_COLUMNS:
        return np.concatenate([np.zeros(cohort.basis.size - 2), _RISES_WITH[name]])
    row = np.full((1, len(cohort.columns)), np.nan)
    row[0, cohort.columns.index(name)] = 0.5
    return cohort.basis.observations(row)[0][0]


def _cells(conditions: Conditions, row: int, outside: NDArray[np.bool_], ranges: Vector) -> Iterator[str]:
    for k in np.flatnonzero(outside).tolist():
        low, high = ranges[k]
        yield f"{conditions.columns[k]} is {conditions.values[row, k]:g}, theirs {low:.3g} to {high:.3g}"


def _named(conditions: Conditions, row: int) -> str:
    return f"id {conditions.ids[row]} is " if conditions.ids[row] else ""
