"""Two sets of feature vectors: kernel MMD, precision, recall, density and coverage, each beside its real-to-real floor.

Everything is measured between equal numbers of cases: half of the real ones against as many samples, and against the
other half, over `SPLITS` random splits. So a figure and its floor have the same bias; the mean over the splits is told
with their 2.5th and 97.5th percentile (delete-half jackknife, Shao and Wu 1989).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bootstrap import SEED, Figure, figure

NEIGHBOURS = 5  # of Naeem et al. 2020
SPLITS = 200
LEAST = 4  # cases on each side
PRDC = ("precision", "recall", "density", "coverage")

Features = NDArray[np.float64]  # (cases, features)


def compare(real: Features, synthetic: Features) -> dict[str, Any] | None:
    """`mmd` and `PRDC`, each {synthetic, floor}, and `n`, the cases of a side; None with too few cases.

    Features are brought to the real cases' mean 0 and deviation 1; constant ones are left out.
    """
    size = min(len(real) // 2, len(synthetic))
    if size < LEAST:
        return None
    spread = real.std(axis=0)
    varied = spread > 1e-6 * np.maximum(np.abs(real).max(axis=0), 1e-12)
    if not varied.any():
        return None
    x, y = ((side[:, varied] - real[:, varied].mean(axis=0)) / spread[varied] for side in (real, synthetic))
    both = np.concatenate([x, y])
    gram, apart = polynomial_kernel(both, both), distances(both, both)
    rng, found = np.random.default_rng(SEED), {name: ([], []) for name in ("mmd", *PRDC)}
    for _ in range(SPLITS):
        order = rng.permutation(len(x))
        reference, others = order[:size], order[size : 2 * size]
        drawn = len(x) + rng.permutation(len(y))[:size]
        for side, chosen in enumerate((drawn, others)):
            found["mmd"][side].append(_mmd(gram, reference, chosen))
            for name, value in _prdc(apart, reference, chosen).items():
                found[name][side].append(value)
    figures: dict[str, Any] = {
        name: {"synthetic": _summary(sides[0], size), "floor": _summary(sides[1], size)}
        for name, sides in found.items()
    }
    return {**figures, "n": size, "features": int(varied.sum()), "neighbours": _neighbours(size)}


def polynomial_kernel(x: Features, y: Features) -> Features:
    """(x y / features + 1)^3, that of the kernel inception distance (Binkowski et al. 2018)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def unbiased_mmd(xx: Features, yy: Features, xy: Features) -> float:
    """Squared MMD from Gram matrices (n, n), (m, m), (n, m); Gretton et al. 2012, equation 3."""
    within = [(gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1)) for gram in (xx, yy)]
    return float(sum(within) - 2 * xy.mean())


def distances(x: Features, y: Features) -> Features:
    """Euclidean distances (n, m)."""
    squared = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
    return np.sqrt(np.maximum(squared, 0))


def prdc(real: Features, synthetic: Features, between: Features, neighbours: int) -> dict[str, float]:
    """Precision, recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Args:
        real: distances within the real cases (n, n).
        synthetic: distances within the samples (m, m).
        between: distances of real cases to samples (n, m).
        neighbours: k; a ball reaches to its centre's k-th nearest neighbour.
    """
    radius = np.partition(real, neighbours, axis=1)[:, neighbours][:, None]
    theirs = np.partition(synthetic, neighbours, axis=1)[:, neighbours]
    inside = between < radius
    return {
        "precision": float(inside.any(axis=0).mean()),
        "recall": float((between < theirs).any(axis=1).mean()),
        "density": float(inside.sum(axis=0).mean() / neighbours),
        "coverage": float((between.min(axis=1) < radius[:, 0]).mean()),
    }


def _mmd(gram: Features, first: NDArray[np.intp], second: NDArray[np.intp]) -> float:
    return unbiased_mmd(gram[np.ix_(first, first)], gram[np.ix_(second, second)], gram[np.ix_(first, second)])


def _prdc(apart: Features, first: NDArray[np.intp], second: NDArray[np.intp]) -> dict[str, float]:
    within = [apart[np.ix_(side, side)].copy() for side in (first, second)]
    for one in within:
        np.fill_diagonal(one, 0)
    return prdc(within[0], within[1], apart[np.ix_(first, second)], _neighbours(len(first)))


def _neighbours(size: int) -> int:
    return min(NEIGHBOURS, size - 1)


def _summary(values: list[float], size: int) -> Figure:
    return figure(float(np.mean(values)), np.array(values), size)
