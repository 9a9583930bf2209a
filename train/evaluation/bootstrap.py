"""Figures with their 95 % intervals: percentile bootstrap over cases (Efron and Tibshirani 1993, chapter 13)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0

Float = NDArray[np.float64]
Figure = dict[str, Any]  # value, low, high (None where nothing is to be said), n


def figure(value: float, spread: Float, n: int) -> Figure:
    """A value with the `LEVEL` interval of what resampling made of it; low and high are None with one case."""
    finite = spread[np.isfinite(spread)]
    ends = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist() if n > 1 and finite.size else [None, None]
    return {"value": float(value) if np.isfinite(value) else None, "low": ends[0], "high": ends[1], "n": n}


def resampled(n: int, stream: int = 0) -> NDArray[np.intp]:
    """(`RESAMPLES`, n) cases drawn with replacement; another `stream` for another cohort."""
    return np.random.default_rng([SEED, stream]).integers(n, size=(RESAMPLES, n))


def mean(values: Float) -> Figure:
    """The mean over cases; cases that have no value (NaN) are left out."""
    return of_one(values, lambda drawn: drawn.mean(axis=-1))


def of_one(values: Float, statistic: Callable[[Float], Float]) -> Figure:
    """A statistic of one value a case, which works along the last axis; cases without a value (NaN) are left out."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if not known.size:
        return figure(float("nan"), np.empty(0), 0)
    return figure(float(statistic(known)), statistic(known[resampled(len(known))]), len(known))


def ratio(first: Float, second: Float) -> Figure:
    """The mean of one cohort over that of another, both resampled."""
    above, below = (np.asarray(side, np.float64)[np.isfinite(side)] for side in (first, second))
    if not above.size or not below.size:
        return figure(float("nan"), np.empty(0), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = above[resampled(len(above))].mean(axis=1) / below[resampled(len(below), 1)].mean(axis=1)
        return figure(float(above.mean() / below.mean()), spread, min(len(above), len(below)))


def between(first: NDArray[Any], second: NDArray[Any], distance: Callable[[Any, Any], float], draws: int) -> Figure:
    """A distance of two cohorts (cases, ...), each resampled `draws` times."""
    one, other = resampled(len(first)), resampled(len(second), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        spread = np.array([distance(first[a], second[b]) for a, b in zip(one[:draws], other[:draws], strict=True)])
        return figure(distance(first, second), spread, min(len(first), len(second)))


def share(hits: int, n: int) -> Figure:
    """A share of `n` cases with its exact interval (Clopper and Pearson 1934)."""
    if not n:
        return figure(float("nan"), np.empty(0), 0)
    tail = (1 - LEVEL) / 2
    low = float(beta.ppf(tail, hits, n - hits + 1)) if hits else 0.0
    high = float(beta.isf(tail, hits + 1, n - hits)) if hits < n else 1.0
    return {"value": hits / n, "low": low, "high": high, "n": n}
