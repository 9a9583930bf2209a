"""How well a segmenter found the tumours of test cases: Dice and HD95 of each label and region."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from numpy.typing import NDArray

from ...engine.bundle.manifest import Grid

REGIONS = {"wt": (1, 2, 3), "tc": (1, 3), "et": (3,), "ncr": (1,), "ed": (2,)}  # the regions of BraTS, then labels
METRICS = ("dice", "hd95_mm")

Label = NDArray[np.uint8]  # (x, y, z): 0 background, 1 NCR, 2 ED, 3 ET


def scores(predicted: Label, expected: Label, grid: Grid) -> dict[str, dict[str, float]]:
    """Metric -> region -> score.

    Dice is 1 and HD95 is 0 where both are empty. HD95, the larger of both directions' 95th percentiles of distances
    between surfaces (MONAI), is the diagonal of the field of view where one alone is empty, as BraTS does.
    """
    found, truth = _planes(predicted), _planes(expected)
    return {
        "dice": {name: _dice(a, b) for name, a, b in zip(REGIONS, found, truth, strict=True)},
        "hd95_mm": dict(zip(REGIONS, _hd95(found, truth, grid), strict=True)),
    }


def _planes(label: Label) -> NDArray[np.bool_]:
    return np.stack([np.isin(label, members) for members in REGIONS.values()])


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    size = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / size if size else 1.0


def _hd95(found: NDArray[np.bool_], truth: NDArray[np.bool_], grid: Grid) -> list[float]:
    worst = math.dist((0.0, 0.0, 0.0), grid.fov_mm)
    held = (found.any((1, 2, 3)), truth.any((1, 2, 3)))
    both = np.flatnonzero(held[0] & held[1])
    distances = np.where(held[0] | held[1], worst, 0.0)
    if both.size:
        pair = (torch.from_numpy(planes[both])[None] for planes in (found, truth))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MONAI calls what it has deprecated itself
            measured = compute_hausdorff_distance(
                *pair, include_background=True, percentile=95, spacing=list(grid.spacing_mm)
            )
        distances[both] = measured[0].numpy()
    return distances.tolist()
