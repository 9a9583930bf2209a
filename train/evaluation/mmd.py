"""Maximum mean discrepancy of two cohorts, independent of the order and the names of their cases."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..data.cohort import Cohort
from .volumes import block_average, in_content_order

MOST_CASES = 256  # of each side, the first ones in the order of their content's hash; bounds memory to 270 MB a side

Features = NDArray[np.float32]  # (cases, values)


def mmd(first: Cohort, second: Cohort) -> dict[str, float | int] | None:
    """Squared MMD with a linear kernel of block-averaged volumes, unbiased (Gretton et al. 2012, equation 3).

    `value` is in shares of the intensity range squared, `standard_error` by the jackknife over cases, `first` and
    `second` the cases that were used. None with fewer than two cases on a side.
    """
    if min(len(first), len(second)) < 2:
        return None
    x, y = (_features(cohort) for cohort in (first, second))
    grams = x @ x.T, y @ y.T, x @ y.T
    value, error = unbiased_mmd(*(gram.astype(np.float64) / x.shape[1] for gram in grams))
    return {"value": value, "standard_error": error, "first": len(x), "second": len(y)}


def unbiased_mmd(xx: NDArray[np.float64], yy: NDArray[np.float64], xy: NDArray[np.float64]) -> tuple[float, float]:
    """Squared MMD and its jackknife standard error from Gram matrices (n, n), (m, m), (n, m)."""
    (n, m), sums = xy.shape, (_off_diagonal(xx), _off_diagonal(yy), float(xy.sum()))
    value = _statistic(n, m, *sums)
    without_x = [
        _statistic(n - 1, m, sums[0] - 2 * (float(xx[i].sum()) - xx[i, i]), sums[1], sums[2] - float(xy[i].sum()))
        for i in range(n)
    ]
    without_y = [
        _statistic(n, m - 1, sums[0], sums[1] - 2 * (float(yy[j].sum()) - yy[j, j]), sums[2] - float(xy[:, j].sum()))
        for j in range(m)
    ]
    return value, float(np.sqrt(_spread(without_x) + _spread(without_y)))


def _statistic(n: int, m: int, xx: float, yy: float, xy: float) -> float:
    within = [0.0 if k < 2 else total / (k * (k - 1)) for k, total in ((n, xx), (m, yy))]
    return sum(within) - 2 * xy / (n * m)


def _off_diagonal(gram: NDArray[np.float64]) -> float:
    return float(gram.sum() - np.trace(gram))


def _spread(values: Iterable[float]) -> float:
    """Jackknife variance from the leave-one-out values."""
    found = np.array(list(values))
    return float((len(found) - 1) * found.var())


def _features(cohort: Cohort) -> Features:
    chosen = in_content_order(cohort)[:MOST_CASES]
    return np.stack([block_average(np.asarray(cohort.slices(case))).ravel() for case in chosen])
