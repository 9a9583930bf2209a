"""How like real volumes the synthetic ones are, case by case and as a set, each figure with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wasserstein_distance

from ...engine.conditions.columns import COLUMNS
from ..data.cohort import Cohort, in_processes
from . import bootstrap
from .bootstrap import Figure
from .structure import BANDS, Values, describe
from .volumes import TISSUE_NAMES

DRAWS = 300  # of the bootstrap where a distance is computed for each

Description = dict[str, NDArray[np.float64]]  # (cases, ...) of each of `structure.Values`
Figures = dict[str, Any]


def describe_cohort(cohort: Cohort, workers: int = 1) -> Description:
    """One pass over the volumes of a cohort, shared by `workers` processes."""
    reference = cohort.modalities.index("t1") if "t1" in cohort.modalities else 0
    one = partial(_describe_case, cohort=cohort, reference=reference)
    found = list(in_processes(one, range(len(cohort)), workers))
    return {name: np.stack([values[name] for values in found]) for name in found[0]}


def _describe_case(case: int, cohort: Cohort, reference: int) -> Values:
    return describe(np.array(cohort.slices(case)), np.array(cohort.label(case)), cohort.grid.spacing_mm, reference)


def coherence(real: Description, synthetic: Description) -> Figures:
    """Slice-to-slice differences against those of real volumes: 1 is as coherent; stripes give more, blur less.

    `relative_to_in_plane` divides by the same ratio within slices, which takes general blur out; `tumour` looks at
    neighbours that both lie in the tumour; `mask_change` is how often the tissue changes along z over in plane.
    """
    figures: Figures = {}
    for prefix in ("", "tumour_"):
        slices, plane = f"{prefix}slice_difference", f"{prefix}in_plane_difference"
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = [side[slices] / side[plane] for side in (synthetic, real)]
        figures[f"{prefix}slice_difference_ratio"] = bootstrap.ratio(synthetic[slices], real[slices])
        figures[f"{prefix}in_plane_difference_ratio"] = bootstrap.ratio(synthetic[plane], real[plane])
        figures[f"{prefix}relative_to_in_plane"] = bootstrap.ratio(*relative)
    figures["mask_change"] = _sides("mask_change", real, synthetic)
    return figures


def anatomy(real: Description, synthetic: Description) -> Figures:
    """Share of tumour voxels inside of the brain and in the largest piece; the field's corners and background."""
    shares, flaws = ("inside_brain", "largest_piece"), ("corners", "background")
    figures = {name: _sides(name, real, synthetic) for name in (*shares, *flaws)}
    for name, sides in figures.items():
        for side, description in (("real", real), ("synthetic", synthetic)):
            known = description[name][np.isfinite(description[name])]
            worst = np.min if name in shares else np.max
            sides[side]["worst"] = float(worst(known)) if known.size else None
    return figures


def texture(real: Description, synthetic: Description, modalities: Sequence[str]) -> Figures:
    """Fine structure over spread, and the contrast of grey and white matter by band, a modality each."""
    figures: Figures = {"fine_structure": {}, "grey_white": {}}
    for m, modality in enumerate(modalities):
        figures["fine_structure"][modality] = _sides("fine_structure", real, synthetic, m)
        figures["grey_white"][modality] = {
            band: _sides("grey_white", real, synthetic, m, b) for b, band in enumerate(BANDS)
        }
    return figures


def _sides(name: str, real: Description, synthetic: Description, *at: int) -> Figures:
    """The mean of a figure over the cases of each side, and synthetic over real."""
    first, second = (side[name][(slice(None), *at)] for side in (real, synthetic))
    return {
        "real": bootstrap.mean(first),
        "synthetic": bootstrap.mean(second),
        "ratio": bootstrap.ratio(second, first),
    }


def intensity_distances(real: Description, synthetic: Description, modalities: Sequence[str]) -> Figures:
    """Wasserstein distance of the intensity histograms, a tissue and modality, in shares of the range (0..1)."""
    distances: Figures = {}
    for t, tissue in enumerate(TISSUE_NAMES):
        distances[tissue] = {}
        for m, modality in enumerate(modalities):
            sides = [side["histograms"][:, t, m] for side in (real, synthetic)]
            present = all(counts.sum() for counts in sides)
            distances[tissue][modality] = bootstrap.between(*sides, histogram_distance, DRAWS) if present else None
    return distances


def histogram_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Wasserstein distance of the summed histograms (cases, levels) of two cohorts, range 1."""
    sums = [side.sum(axis=0) for side in (first, second)]
    if not all(counts.sum() for counts in sums):
        return float("nan")
    below = [np.cumsum(counts / counts.sum()) for counts in sums]
    return float(np.abs(below[0] - below[1]).sum() / (len(below[0]) - 1))


def characteristic_distances(real: NDArray[np.float64], synthetic: NDArray[np.float64]) -> Figures:
    """Wasserstein distance a tumour characteristic of two tables (cases, 12), in its unit and in real deviations.

    A characteristic that one side does not know (NaN: the shares of a cohort with one tumour label) is left out.
    """
    distances: Figures = {}
    for k, name in enumerate(COLUMNS):
        sides = real[:, k], synthetic[:, k]
        if np.isnan(sides[0]).any() or np.isnan(sides[1]).any():
            continue
        found: Figure = bootstrap.between(*sides, _distance, DRAWS)
        deviation = float(sides[0].std())
        distances[name] = {
            "distance": found["value"],
            "interval": [found["low"], found["high"]],
            "in_deviations": found["value"] / deviation if deviation > 0 else None,
        }
    return distances


def _distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(wasserstein_distance(first, second))
