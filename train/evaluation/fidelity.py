"""How like real volumes the synthetic ones are as a set: MMD, diversity, intensities, characteristics, coherence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from monai.metrics.regression import MultiScaleSSIMMetric
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from ...engine.conditions.columns import COLUMNS
from ..data.cohort import Cohort
from .volumes import (
    TISSUE_NAMES,
    block_average,
    brain_of,
    in_content_order,
    largest_piece_share,
    neighbour_difference,
    tissue_histograms,
)

MS_SSIM_KERNEL = 4  # voxels; MONAI's usual choice for volumes, whose depth allows no kernel of 11
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003

Figures = dict[str, Any]


def describe_cohort(cohort: Cohort) -> Figures:
    """One pass over the volumes of a cohort.

    Gives `histograms` (4 tissues, modality, 256), and a value a case of `slice_difference` (along z),
    `in_plane_difference`, `inside_brain` (share of the tumour) and `largest_piece`.
    """
    histograms = np.zeros((len(TISSUE_NAMES), len(cohort.modalities), 256), np.int64)
    values: dict[str, list[float]] = {
        name: [] for name in ("slice_difference", "in_plane_difference", "inside_brain", "largest_piece")
    }
    for case in cohort.cases:
        slices, label = np.asarray(cohort.slices(case)), np.asarray(cohort.label(case))
        brain = brain_of(slices)
        tumour = label > 0
        histograms += tissue_histograms(slices, label, brain)
        values["slice_difference"].append(neighbour_difference(slices, brain, 0))
        in_plane = [neighbour_difference(slices, brain, axis) for axis in (1, 2)]
        values["in_plane_difference"].append(float(np.mean(in_plane)))
        values["inside_brain"].append(float(brain[tumour].mean()))
        values["largest_piece"].append(largest_piece_share(tumour))
    return {"histograms": histograms, **{name: np.array(found) for name, found in values.items()}}


def coherence(real: Figures, synthetic: Figures) -> Figures:
    """Slice-to-slice difference against that of real volumes (1 is as coherent; stripes give more, blur less).

    `relative_to_in_plane` divides by the same ratio within slices, which takes general blur out of it.
    """
    ratio = float(np.nanmean(synthetic["slice_difference"]) / np.nanmean(real["slice_difference"]))
    in_plane = float(np.nanmean(synthetic["in_plane_difference"]) / np.nanmean(real["in_plane_difference"]))
    return {
        "slice_difference_ratio": ratio,
        "in_plane_difference_ratio": in_plane,
        "relative_to_in_plane": ratio / in_plane,
    }


def anatomy(figures: Figures) -> Figures:
    """Share of tumour voxels inside of the brain and in the largest piece, over the cases."""
    return {
        name: {"mean": float(np.nanmean(figures[name])), "least": float(np.nanmin(figures[name]))}
        for name in ("inside_brain", "largest_piece")
    }


def intensity_distances(real: Figures, synthetic: Figures, modalities: tuple[str, ...]) -> Figures:
    """Wasserstein distance of the intensity histograms, a tissue and modality, in shares of the range (0..1)."""
    levels = np.arange(256) / 255
    distances: Figures = {}
    for t, tissue in enumerate(TISSUE_NAMES):
        distances[tissue] = {}
        for m, modality in enumerate(modalities):
            pair = (real["histograms"][t, m], synthetic["histograms"][t, m])
            present = all(counts.sum() for counts in pair)
            distances[tissue][modality] = float(wasserstein_distance(levels, levels, *pair)) if present else None
    return distances


def characteristic_distances(real: NDArray[np.float64], synthetic: NDArray[np.float64]) -> Figures:
    """Wasserstein distance a tumour characteristic of two tables (cases, 12), in its unit and in real deviations.

    A characteristic that one side does not know (NaN: the shares of a cohort with one tumour label) is left out.
    """
    distances: Figures = {}
    for k, name in enumerate(COLUMNS):
        if np.isnan(real[:, k]).any() or np.isnan(synthetic[:, k]).any():
            continue
        distance = float(wasserstein_distance(real[:, k], synthetic[:, k]))
        deviation = float(real[:, k].std())
        distances[name] = {"distance": distance, "in_deviations": distance / deviation if deviation > 0 else None}
    return distances


def ms_ssim_diversity(cohort: Cohort, pairs: int, seed: int = 0) -> Figures | None:
    """Mean MS-SSIM (MONAI, 3D, all modalities) over random pairs of a cohort; lower is more diverse.

    The pairs depend on the cases' content, not on their names.

    Volumes are averaged over 2 x 2 pixels in plane, which makes voxels of the default grid nearly cubes and costs a
    quarter.  None with fewer than two cases or volumes too small for one scale.
    """
    x, y, z = cohort.grid.shape
    metric = _ms_ssim(min(x // 2, y // 2, z))
    if len(cohort) < 2 or metric is None:
        return None
    order = in_content_order(cohort)
    values = [
        float(torch.as_tensor(metric(_volume(cohort, order[a]), _volume(cohort, order[b]))).mean())
        for a, b in _pairs(len(cohort), pairs, seed)
    ]
    return {
        "mean": float(np.mean(values)),
        "standard_error": float(np.std(values) / len(values) ** 0.5),
        "pairs": len(values),
    }


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
