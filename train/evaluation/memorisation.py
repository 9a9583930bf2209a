"""Whether samples are training cases in disguise: distances to the nearest training case, against held-out cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.cohort import Cohort
from .autoencoder import Autoencoder
from .volumes import block_average

PERCENTILE = 1.0  # of the held-out cases' distances; samples below it are listed
CASES_AT_ONCE = 8

MIN_HELD_OUT = 20  # fewer held-out cases make the 1st percentile their smallest value: no threshold then

Feature = Callable[[Cohort, int, bool], NDArray[np.float32]]  # one case, mirrored left-right or not -> a vector


def image_feature(cohort: Cohort, case: int, mirrored: bool = False) -> NDArray[np.float32]:
    """The volume averaged over blocks of 2 x 4 x 4 voxels (z, x, y), as a vector."""
    return block_average(_seen(np.asarray(cohort.slices(case)), 2, mirrored)).ravel()


def latent_feature(autoencoder: Autoencoder) -> Feature:
    """The stack of slice latents of a case, as a vector."""

    def feature(cohort: Cohort, case: int, mirrored: bool) -> NDArray[np.float32]:
        slices, label = np.asarray(cohort.slices(case)), np.asarray(cohort.label(case))
        return autoencoder.encode(_seen(slices, 2, mirrored), _seen(label, 1, mirrored)).ravel()

    return feature


def _seen(array: NDArray[np.uint8], x_axis: int, mirrored: bool) -> NDArray[np.uint8]:
    return np.flip(array, x_axis).copy() if mirrored else array


def nearest_training(
    feature: Feature, queries: list[tuple[Cohort, int]], training: Cohort
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Root mean square distance of every query to its two nearest training cases, (queries, 2), and who they are.

    A query is looked at as it is and mirrored left-right; the nearer one counts. The training cases stream by in
    blocks, so memory grows with the queries only.
    """
    wanted = np.stack([feature(cohort, case, mirrored) for mirrored in (False, True) for cohort, case in queries])
    norms = np.einsum("ij,ij->i", wanted, wanted, dtype=np.float64)
    both = np.empty((len(wanted), len(training)))
    for start in range(0, len(training), CASES_AT_ONCE):
        stop = min(start + CASES_AT_ONCE, len(training))
        block = np.stack([feature(training, case, False) for case in range(start, stop)])
        block_norms = np.einsum("ij,ij->i", block, block, dtype=np.float64)
        both[:, start:stop] = norms[:, None] + block_norms - 2 * (wanted @ block.T)
    squared = both.reshape(2, len(queries), -1).min(axis=0)
    order = np.argsort(squared, axis=1)[:, :2]
    near = np.take_along_axis(squared, order, axis=1)
    if len(training) == 1:
        order, near = np.repeat(order, 2, axis=1), np.column_stack([near, np.full(len(queries), np.inf)])
    return np.sqrt(np.maximum(near, 0) / wanted.shape[1]), order


def memorisation(feature: Feature, real: Cohort, synthetic: Cohort, training: Cohort) -> dict[str, Any]:
    """Distances of samples and of held-out cases to their nearest training case, and the samples that are too close.

    A sample is listed when its distance is below the 1st percentile of those of the held-out real cases. With fewer
    than `MIN_HELD_OUT` of them there is no such percentile: `threshold` and `memorised` are None.
    `nearest_over_second` tells a copy (well below 1) from a smooth volume that lies close to every case (about 1).
    """
    queries = [(real, case) for case in range(len(real))] + [(synthetic, case) for case in range(len(synthetic))]
    distances, who = nearest_training(feature, queries, training)
    held_out, samples = distances[: len(real), 0], distances[len(real) :, 0]
    threshold = float(np.percentile(held_out, PERCENTILE)) if len(real) >= MIN_HELD_OUT else None
    close = [
        {
            "sample": synthetic.cases[case],
            "nearest": training.cases[int(who[len(real) + case, 0])],
            "distance": float(samples[case]),
            "nearest_over_second": float(samples[case] / distances[len(real) + case, 1]),
        }
        for case in np.argsort(samples)
        if threshold is not None and samples[case] < threshold
    ]
    return {
        "threshold": threshold,
        "held_out": _summary(held_out),
        "synthetic": _summary(samples),
        "memorised": None if threshold is None else close,
        "distances": {"held_out": held_out.tolist(), "synthetic": samples.tolist()},
    }


def _summary(distances: NDArray[np.float64]) -> dict[str, float]:
    return {"least": float(distances.min()), "median": float(np.median(distances)), "most": float(distances.max())}
