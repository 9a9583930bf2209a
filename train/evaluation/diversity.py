"""MS-SSIM of pairs within a cohort: how unlike each other its volumes are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from monai.metrics.regression import MultiScaleSSIMMetric

from ..data.cohort import Cohort
from . import bootstrap
from .bootstrap import Float
from .volumes import block_average, in_content_order

MS_SSIM_KERNEL = 4  # voxels; MONAI's usual choice for volumes, whose depth allows no kernel of 11
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003


def ms_ssim_diversity(cohort: Cohort, pairs: int, seed: int = 0) -> dict[str, Any] | None:
    """Mean MS-SSIM (MONAI, 3D, all modalities) over random pairs of a cohort; lower is more diverse.

    The pairs depend on the cases' content, not on their names. The interval comes of resampling cases: a pair counts
    as often as both its cases were drawn.

    Volumes are averaged over 2 x 2 pixels in plane, which makes voxels of the default grid nearly cubes and costs a
    quarter.  None with fewer than two cases or volumes too small for one scale.
    """
    x, y, z = cohort.grid.shape
    metric = _ms_ssim(min(x // 2, y // 2, z))
    if len(cohort) < 2 or metric is None:
        return None
    order, chosen = in_content_order(cohort), list(_pairs(len(cohort), pairs, seed))
    values = np.array(
        [float(torch.as_tensor(metric(_volume(cohort, order[a]), _volume(cohort, order[b]))).mean()) for a, b in chosen]
    )
    found = bootstrap.figure(float(values.mean()), _spread(values, np.array(chosen), len(cohort)), len(cohort))
    return {"mean": found["value"], "low": found["low"], "high": found["high"], "pairs": len(values)}


def _spread(values: Float, pairs: Float, cases: int) -> Float:
    counts = np.stack([np.bincount(drawn, minlength=cases) for drawn in bootstrap.resampled(cases)])
    weights = counts[:, pairs[:, 0]] * counts[:, pairs[:, 1]]
    total = weights.sum(axis=1)
    return np.divide(weights @ values, total, out=np.full(len(total), np.nan), where=total > 0)


def _ms_ssim(smallest: int) -> MultiScaleSSIMMetric | None:
    """The metric with as many of the five scales as the smallest axis (voxels) allows; None if not even one fits."""
    scales = sum((MS_SSIM_KERNEL - 1) * 2**level < smallest for level in range(len(MS_SSIM_WEIGHTS)))
    if scales == 0:
        return None
    weights = np.array(MS_SSIM_WEIGHTS[:scales])
    return MultiScaleSSIMMetric(
        spatial_dims=3,
        data_range=1.0,
        kernel_size=MS_SSIM_KERNEL,
        weights=tuple(weights / weights.sum()),
        reduction="none",
    )


def _volume(cohort: Cohort, case: int) -> torch.Tensor:
    """(1, modality, z, x, y) in 0..1."""
    averaged = block_average(np.asarray(cohort.slices(case)), (1, 2, 2))
    return torch.from_numpy(np.moveaxis(averaged, 1, 0).copy())[None]


def _pairs(cases: int, pairs: int, seed: int) -> Iterator[tuple[int, int]]:
    """Distinct random pairs, all of them where there are no more."""
    every = np.stack(np.triu_indices(cases, 1), axis=1)
    chosen = np.random.default_rng(seed).permutation(len(every))[:pairs]
    yield from ((int(a), int(b)) for a, b in every[np.sort(chosen)])
