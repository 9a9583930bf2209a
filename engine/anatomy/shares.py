"""White matter, grey matter and fluid of a scan: a mixture of three Gaussians over its modalities and a smooth bias.

Seeds of each tissue come from what it is (fluid is dark on T1 and bright on T2, white matter brighter than grey on T1
and darker on T2 and FLAIR), expectation maximisation refines them (Wells et al., "Adaptive segmentation of MRI data",
IEEE TMI 1996). No trained weights, no atlas: thick slices and low contrast give coarse maps, not wrong ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

from ..blocks import block_sums

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]

LEADING = ("t1", "t2", "flair")
"""The modalities that tell the tissues apart, in this order."""

WHITE, GREY, FLUID = range(3)
_DARKEST = 2 / 255  # what logarithms begin at
_BIAS_MM, _BLOCK_MM = 15.0, 6.0
_LOOKED_AT = 60_000  # voxels that the mixture is refined on
_ROUNDS, _BIAS_ROUNDS = 10, (3, 6)
_FLUID_RATIO, _FLUID_DARK = 0.65, -0.1  # log T2 / T1 above, log T1 below those of the median voxel
_GREY_BELOW, _WHITE_ABOVE = 0.40, 0.55  # quantiles of the contrast
_CONTRAST = np.array([1.0, -0.5, -0.3], np.float32)
_LIFTS = (0.0, 0.15, 0.3, 0.5, 0.8)  # by which a voxel at the surface may have faded
_AT_SURFACE = np.array([-1.5, 0.0, 0.5])  # log prior of white, grey, fluid there
_FEWEST = 200  # voxels that a tissue's seeds are measured on
_FLUID_MEAN, _FLUID_COVARIANCE = np.array([-0.6, 1.0, -0.8]), np.diag([0.1, 0.1, 0.2])  # where there are fewer


def tissue_shares(image: FloatArray, label: NDArray[np.uint8], spacing_mm: Sequence[float]) -> FloatArray:
    """Shares (3, x, y, z) of white matter, grey matter and fluid, sum 1 in the brain and 0 outside it.

    In a tumour they are what its signal resembles.

    Args:
        image: (3, x, y, z) of `LEADING`, 0..1, exactly 0 outside the brain.
        label: (x, y, z), above 0 in the tumour.
        spacing_mm: of a voxel.
    """
    brain = np.asarray(image.any(axis=0))
    shares = np.zeros(image.shape, np.float32)
    core = _eroded(brain) & ~cast(Mask, binary_dilation(label > 0))
    if core.sum() < 3 * _FEWEST:
        shares[GREY][brain] = 1
        return shares
    logs = np.log(np.maximum(image, np.float32(_DARKEST)))
    fluid, solid = _fluid_and_solid(logs, core)
    flat = logs - np.stack([_smooth(part, solid, spacing_mm) for part in logs])
    score = np.tensordot(_CONTRAST, flat, axes=1)
    low, high = np.quantile(score[solid], (_GREY_BELOW, _WHITE_ABOVE))
    mixture = _Mixture.seeded(flat, (solid & (score > high), solid & (score < low), fluid), core)
    some = np.zeros(core.shape, np.bool_)
    at = np.flatnonzero(core)
    some.flat[at[:: len(at) // _LOOKED_AT + 1]] = True
    for number in range(_ROUNDS):
        members = mixture.refine(flat[:, some])
        if number in _BIAS_ROUNDS:
            flat -= _left_over(flat, some, members, mixture.means, spacing_mm)
    surface = brain & ~_eroded(brain)
    shares[:, brain] = _normalised(mixture.log_densities(flat[:, brain]))
    lifted = np.max([mixture.log_densities(flat[:, surface] + lift) for lift in _LIFTS], axis=0)
    shares[:, surface] = _normalised(lifted + _AT_SURFACE[:, None])
    return shares


def _fluid_and_solid(logs: FloatArray, core: Mask) -> tuple[Mask, Mask]:
    t1, t2, _ = (part - np.median(part[core]) for part in logs)
    fluid = core & (t2 - t1 > _FLUID_RATIO) & (t1 < _FLUID_DARK)
    solid = core & ~cast(Mask, binary_dilation(fluid))
    return fluid, solid if solid.sum() >= _FEWEST else core


@dataclass
class _Mixture:
    means: NDArray[np.float64]  # (tissue, modality)
    covariances: NDArray[np.float64]  # (tissue, modality, modality)
    chances: NDArray[np.float64]  # (tissue,)
    first: tuple[NDArray[np.float64], NDArray[np.float64]]  # means and covariances of the seeds
    weights: NDArray[np.float64]  # (tissue,) voxels that the seeds count for

    @classmethod
    def seeded(cls, logs: FloatArray, seeds: Sequence[Mask], core: Mask) -> _Mixture:
        means, covariances, chances = [], [], []
        for seed in seeds:
            few = int(seed.sum()) < _FEWEST
            means.append(_FLUID_MEAN if few else logs[:, seed].mean(axis=1))
            covariances.append(_FLUID_COVARIANCE if few else np.cov(logs[:, seed]) + 2e-3 * np.eye(3))
            chances.append(max(seed.sum() / core.sum(), 0.03))
        first = np.stack(means).astype(np.float64), np.stack(covariances)
        weights = np.array([0.15, 0.15, 0.05]) * min(core.sum(), _LOOKED_AT)
        return cls(first[0].copy(), first[1].copy(), np.array(chances), first, weights)

    def log_densities(self, values: FloatArray) -> NDArray[np.float64]:
        """(tissue, voxel) of values (modality, voxel), up to a constant."""
        found = []
        for mean, covariance, chance in zip(self.means, self.covariances, self.chances, strict=True):
            away = values - mean[:, None]
            distance = np.einsum("in,in->n", np.linalg.solve(covariance, away), away)
            found.append(np.log(chance) - 0.5 * distance - 0.5 * np.linalg.slogdet(covariance)[1])
        return np.stack(found)

    def refine(self, values: FloatArray) -> NDArray[np.float64]:
        """One round on values (modality, voxel); returns to which tissue (tissue, voxel) they belonged before it."""
        members = _normalised(self.log_densities(values))
        for k, (mine, weight) in enumerate(zip(members, self.weights, strict=True)):
            count = mine.sum()
            mean = ((values * mine).sum(axis=1) + weight * self.first[0][k]) / (count + weight)
            away = values - mean[:, None]
            spread = np.einsum("in,jn->ij", away * mine, away)
            self.means[k] = mean
            self.covariances[k] = (spread + weight * self.first[1][k]) / (count + weight) + 1e-3 * np.eye(3)
        self.chances = np.clip(members.mean(axis=1), 0.05, 0.8)
        return members


def _left_over(
    logs: FloatArray,
    core: Mask,
    members: NDArray[np.float64],
    means: NDArray[np.float64],
    spacing_mm: Sequence[float],
) -> FloatArray:
    """Smooth part (modality, x, y, z) of how far solid tissue is from its mean."""
    solid = members[WHITE] + members[GREY]
    expected = (members[WHITE] * means[WHITE][:, None] + members[GREY] * means[GREY][:, None]) / np.maximum(solid, 1e-6)
    weight = np.zeros(core.shape, np.float32)
    weight[core] = solid
    found = np.zeros(logs.shape, np.float32)
    for part, rest in zip(found, logs[:, core] - expected, strict=True):
        part[core] = rest
        part[...] = _smooth(part, weight, spacing_mm)
    return found


def _smooth(values: FloatArray, weight: FloatArray | Mask, spacing_mm: Sequence[float]) -> FloatArray:
    """Weighted Gaussian mean around every voxel, of blocks of about `_BLOCK_MM`."""
    blocks = [max(1, round(_BLOCK_MM / mm)) for mm in spacing_mm]
    sigma = [_BIAS_MM / (mm * block) for mm, block in zip(spacing_mm, blocks, strict=True)]
    weight = weight.astype(np.float32)
    sums, total = (gaussian_filter(block_sums(part, blocks), sigma, truncate=3) for part in (values * weight, weight))
    coarse = sums / np.maximum(total, np.float32(0.02 * np.prod(blocks)))
    at = [(np.arange(n) + 0.5) / block - 0.5 for n, block in zip(values.shape, blocks, strict=True)]
    for axis, places in enumerate(at):
        coarse = _between(coarse, places, axis)
    return coarse.astype(np.float32, copy=False)


def _between(values: NDArray[Any], places: NDArray[np.float64], axis: int) -> NDArray[Any]:
    """Linear interpolation along an axis, the nearest value beyond its ends."""
    low = np.clip(np.floor(places), 0, max(values.shape[axis] - 2, 0)).astype(np.int64)
    share = np.clip(places - low, 0, 1).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    high = np.minimum(low + 1, values.shape[axis] - 1)
    return values.take(low, axis) * (1 - share) + values.take(high, axis) * share


def _normalised(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.exp(logs - logs.max(axis=0))
    return shares / shares.sum(axis=0)


def _eroded(mask: Mask) -> Mask:
    return cast(Mask, binary_erosion(mask, iterations=2))
