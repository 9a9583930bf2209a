"""Whether a quantity stays flat over a long run: its growth with a 95 % interval, from means of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

BLOCKS = 20  # neighbouring samples hang together, means of blocks hardly
FEWEST_FREE = 3  # degrees of freedom, below which no interval is told
TOLERANCE = 0.05  # of the mean, that a quantity may grow over the longest leg

Leg = Sequence[tuple[int, float]]
"""What was measured in one process: which sample of it, and the value."""


@dataclass(frozen=True)
class Growth:
    """Growth over as many samples as the longest leg has, and its 95 % interval."""

    mean: float
    growth: float
    low: float
    high: float
    samples: int

    @property
    def verdict(self) -> str:
        """`flat` where even the interval's upper end is within `TOLERANCE`, `grows` where its lower end is not."""
        allowed = TOLERANCE * self.mean
        return "flat" if self.high <= allowed else "grows" if self.low > allowed else "undecided"


def growth(legs: Sequence[Leg]) -> Growth | None:
    """Growth common to all legs, each with a level of its own; None where there is too little for an interval.

    Ordinary least squares on the means of `BLOCKS` blocks of equal size, less the mean of their leg.
    """
    values = np.array([value for leg in legs for _, value in leg])
    size = max(1, len(values) // BLOCKS)
    blocked = [_blocks(leg, size) for leg in legs if len(leg) >= 2 * size]
    free = sum(map(len, blocked)) - len(blocked) - 1
    if free < FEWEST_FREE:
        return None
    x, y = np.concatenate([blocks - blocks.mean(axis=0) for blocks in blocked]).T
    slope = float(x @ y / (x @ x))
    residual = y - slope * x
    error = float(np.sqrt(residual @ residual / free / (x @ x))) * float(stats.t.ppf(0.975, free))
    span = max(leg[-1][0] - leg[0][0] for leg in legs if leg)
    return Growth(float(values.mean()), slope * span, (slope - error) * span, (slope + error) * span, len(values))


def _blocks(leg: Leg, size: int) -> NDArray[np.float64]:
    """(blocks, 2): mean place and mean value; what is over at the end belongs to none."""
    whole = np.array(leg, np.float64)[: len(leg) // size * size]
    return whole.reshape(-1, size, 2).mean(axis=1)
