"""95 % intervals of means and of differences between arms, by a bootstrap that keeps pairs together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
LEVEL = 95.0  # %

Scores = NDArray[np.float64]  # (seeds, cases)


class Interval(NamedTuple):
    """A figure and the ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedBootstrap:
    """Resampled test cases and seeds, the same ones for every arm, so that differences are paired by both.

    Cases and seeds are drawn with replacement, each on its own (Efron and Tibshirani 1993, percentile intervals).
    """

    seeds: NDArray[np.float64]  # (resamples, seeds): share of each
    cases: NDArray[np.float64]  # (resamples, cases)

    @classmethod
    def of(cls, seeds: int, cases: int, resamples: int = RESAMPLES) -> PairedBootstrap:
        """The resamples of a comparison of so many seeds and cases; always the same."""
        rng = np.random.default_rng(0)
        drawn = [rng.multinomial(n, np.full(n, 1 / n), resamples) / n for n in (seeds, cases)]
        return cls(*drawn)

    def mean(self, scores: Scores) -> Interval:
        """The mean over seeds and cases."""
        return self._interval(float(scores.mean()), self._means(scores))

    def difference(self, scores: Scores, other: Scores) -> Interval:
        """Mean of `scores` minus that of `other`."""
        return self.mean(scores - other)

    def ratio(self, scores: Scores, other: Scores) -> Interval | None:
        """Mean of `scores` over that of `other`; None where that may be 0."""
        below = self._means(other)
        if not (below > 0).all():
            return None
        return self._interval(float(scores.mean() / other.mean()), self._means(scores) / below)

    def _means(self, scores: Scores) -> NDArray[np.float64]:
        return ((self.seeds @ scores) * self.cases).sum(axis=1)

    def _interval(self, value: float, resampled: NDArray[np.float64]) -> Interval:
        low, high = np.percentile(resampled, [50 - LEVEL / 2, 50 + LEVEL / 2])
        return Interval(value, float(low), float(high))
