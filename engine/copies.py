"""Whether a volume is a copy of a case: likeness after alignment and local normalisation, a modality and a part each.

A case is described by its anatomy between `BLOCK_MM` and `REACH_MM`: block means, less their local mean, divided by
their local deviation, so that brightness, contrast, its sign and noise matter little. Two poses are kept, as the volume
lies and brought upright by the moments of its brain; mirror images come free. Likeness is the absolute correlation, of
the whole field, its left and right half and its octants. How like honest cases are to each other sets the limits.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

BLOCK_MM = 5.5  # side of a block, about
REACH_MM = 12.0  # deviation of the Gaussian that is local
MIN_HONEST = 10  # honest cases that limits can be told from
FALSE_ALARM = 1e-3  # chance that an honest case exceeds a limit in any part
CASES_AT_ONCE = 64  # of the references, when many are compared
_LEAST_BLOCKS = 4  # a side
_LEAST_SHARE = 0.5  # of a block's voxels that are brain, for it to count
_SOFT = 0.25  # of the detail's deviation, added to local ones: flat regions are not blown up
_LEAST_DEVIATION = 0.02  # of honest cases' likeness (Fisher's z)
_MOST_LIKE = 0.99999

PARTS = ("whole", "left half", "right half", *(f"octant {k}" for k in range(1, 9)))
"""Parts of the field that are compared; octants in the order of (x, y, z), z fastest."""

Features = NDArray[np.float16]  # (pose, modality, x, y, z) of blocks
Likeness = NDArray[np.float32]  # (..., modality, part), 0..1


def describe(image: NDArray[np.integer] | NDArray[np.floating], spacing_mm: Sequence[float]) -> Features:
    """What is compared of an image (modality, x, y, z), background 0; half a megabyte on the default grid."""
    lengths = zip(spacing_mm, image.shape[1:], strict=True)
    sides = [max(1, min(round(BLOCK_MM / mm), n // _LEAST_BLOCKS)) for mm, n in lengths]
    block_mm = np.array([side * mm for side, mm in zip(sides, spacing_mm, strict=True)])
    values, shares = _block_means(image, sides), _block_means(image > 0, sides)
    matrix, offset = _upright(shares.max(axis=0), block_mm)

    def turned(blocks: NDArray[np.float32]) -> NDArray[np.float32]:
        moved = [ndimage.affine_transform(one, matrix, tuple(offset), order=1) for one in blocks]  # type: ignore[arg-type]
        return np.stack(moved).astype(np.float32)

    poses = [_details(values, shares, block_mm), _details(turned(values), turned(shares), block_mm)]
    return np.stack(poses).astype(np.float16)


def likeness(queries: NDArray[np.float16], references: NDArray[np.float16]) -> Likeness:
    """The likeness of every query (n, ...) to every reference (m, ...), of any pose, mirrored or not: (n, m, ...)."""
    found = [_compared(queries, references[k : k + CASES_AT_ONCE]) for k in range(0, len(references), CASES_AT_ONCE)]
    return np.concatenate(found, axis=1)


@dataclass(frozen=True)
class Limits:
    """How like an honest case may be to its nearest reference, in Fisher's z: (modality, part) each."""

    mean: NDArray[np.float64]
    limit: NDArray[np.float64]

    @classmethod
    def of(cls, nearest: Likeness) -> Limits:
        """From the likeness of honest cases to their nearest references, (cases, modality, part), `MIN_HONEST` or more.

        One-sided prediction limits of a normal distribution, so that one more honest case exceeds any of them with a
        chance of `FALSE_ALARM` at most (Bonferroni over modalities and parts).
        """
        z = fisher(nearest)
        cases, views = len(z), z[0].size
        deviation = np.maximum(z.std(axis=0, ddof=1), _LEAST_DEVIATION)
        wide = -special.stdtrit(cases - 1, FALSE_ALARM / views) * np.sqrt(1 + 1 / cases)
        mean = z.mean(axis=0)
        return cls(mean, mean + wide * deviation)

    def closeness(self, found: Likeness) -> NDArray[np.float64]:
        """The largest of modalities and parts: 0 as like as honest cases are on average, above 1 a copy; (...)."""
        return self._by_view(found).max(axis=(-2, -1))

    def view(self, found: Likeness) -> tuple[int, int]:
        """The modality and the part in which one case (modality, part) comes closest."""
        modality, part = np.unravel_index(int(self._by_view(found).argmax()), found.shape)
        return int(modality), int(part)

    def _by_view(self, found: Likeness) -> NDArray[np.float64]:
        return (fisher(found) - self.mean) / (self.limit - self.mean)


@dataclass(frozen=True)
class CopyReference:
    """The cases that samples must not be copies of, and how like cases are that are none."""

    features: NDArray[np.float16]  # (cases, ...) of `describe`
    spacing_mm: tuple[float, ...]
    limits: Limits

    @classmethod
    def of(cls, features: Iterable[Features], spacing_mm: Sequence[float]) -> CopyReference:
        """Limits are told from the likeness of each case to its nearest other one; `MIN_HONEST` cases or more."""
        kept = np.stack(list(features))
        return cls(kept, tuple(spacing_mm), Limits.of(nearest_other(kept)))

    def closeness(self, image: NDArray[np.integer]) -> float:
        """That of an image (modality, x, y, z) to the nearest case; above 1 it is a copy."""
        found = likeness(describe(image, self.spacing_mm)[None], self.features)[0]
        return float(self.limits.closeness(found).max())

    def sha256(self) -> str:
        """Of everything that judges."""
        digest = hashlib.sha256(repr((self.features.shape, self.spacing_mm)).encode())
        for part in (self.features, self.limits.mean, self.limits.limit):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def nearest_other(features: NDArray[np.float16]) -> Likeness:
    """The likeness of each of several cases to its nearest other one: (cases, modality, part)."""
    found = likeness(features, features)
    found[np.arange(len(features)), np.arange(len(features))] = 0
    return found.max(axis=1)


def fisher(found: Likeness) -> NDArray[np.float64]:
    """Fisher's z of correlations 0..1: their distribution is nearer to a normal one."""
    return np.arctanh(np.minimum(found.astype(np.float64), _MOST_LIKE))


def _block_means(image: NDArray[np.generic], sides: Sequence[int]) -> NDArray[np.float32]:
    """(modality, x, y, z) averaged over blocks; what is left over at the ends is cut evenly."""
    total = image.astype(np.float32)
    for axis, side in enumerate(sides, start=1):
        blocks = total.shape[axis] // side
        first = (total.shape[axis] - blocks * side) // 2
        total = total.take(range(first, first + blocks * side), axis)
        total = total.reshape(*total.shape[:axis], blocks, side, *total.shape[axis + 1 :]).mean(axis=axis + 1)
    return total


def _upright(
    brain: NDArray[np.float32], block_mm: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrix and offset that bring the brain's centre to the field's, its principal axes to the nearest of x, y, z."""
    at = np.stack(np.meshgrid(*map(np.arange, brain.shape), indexing="ij"), axis=-1).reshape(-1, 3) * block_mm
    weights = brain.ravel().astype(np.float64)
    if not weights.any():
        return np.eye(3), np.zeros(3)
    centre = np.average(at, axis=0, weights=weights)
    axes = np.linalg.eigh(np.cov(at - centre, rowvar=False, aweights=weights, bias=True))[1]
    order = max(itertools.permutations(range(3)), key=lambda o: sum(abs(axes[k, o[k]]) for k in range(3)))
    axes = axes[:, order]
    axes = axes * np.where(np.diag(axes) < 0, -1, 1)
    if np.linalg.det(axes) < 0:
        axes = np.eye(3)
    middle = (np.array(brain.shape) - 1) / 2 * block_mm
    return axes * block_mm / block_mm[:, None], (centre - axes @ middle) / block_mm


def _details(
    values: NDArray[np.float32], shares: NDArray[np.float32], block_mm: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Block means less their local mean over their local deviation, 0 outside of the brain; (modality, x, y, z)."""
    inside = shares > _LEAST_SHARE

    def local(each: NDArray[np.float32]) -> NDArray[np.float32]:
        sigma = (0.0, *(REACH_MM / block_mm))
        return np.asarray(ndimage.gaussian_filter(each, sigma, mode="constant", truncate=3.0), np.float32)

    mean = local(values) / np.maximum(local(shares), 1e-6)
    detail = np.where(inside, values / np.maximum(shares, _LEAST_SHARE) - mean, np.float32(0))
    around = np.maximum(local(inside.astype(np.float32)), 1e-6)
    deviation = np.sqrt(local(detail * detail) / around)
    counts = np.maximum(inside.sum(axis=(1, 2, 3), keepdims=True), 1)
    overall = np.sqrt(np.square(detail).sum(axis=(1, 2, 3), keepdims=True) / counts)
    return detail / np.maximum(deviation + _SOFT * overall, 1e-6)


def _compared(queries: NDArray[np.float16], references: NDArray[np.float16]) -> Likeness:
    theirs = _octants(references)
    best: Likeness | None = None
    for mine in (_octants(queries), _octants(queries[:, :, :, ::-1])):
        dots = np.stack([a @ b.transpose(0, 1, 3, 2) for a, b in zip(mine, theirs, strict=True)], axis=-1)
        norms = [np.stack([np.square(one).sum(axis=-1) for one in side], axis=-1) for side in (mine, theirs)]
        energy = [_parts(one) for one in (norms[0][:, :, :, None], norms[1][:, :, None])]
        product = np.sqrt(energy[0] * energy[1])
        found = np.divide(np.abs(_parts(dots)), product, out=np.zeros_like(product), where=product > 0)
        nearest = np.minimum(found.max(axis=0), 1)  # of the poses: (modality, queries, references, part)
        best = nearest if best is None else np.maximum(best, nearest)
    assert best is not None
    return best.transpose(1, 2, 0, 3)


def _octants(features: NDArray[np.float16]) -> list[NDArray[np.float32]]:
    """(cases, pose, modality, x, y, z) -> the eight octants, (pose, modality, cases, blocks) each."""
    halves = [(slice(None, n // 2), slice(n // 2, None)) for n in features.shape[3:]]
    found = []
    for x, y, z in itertools.product(*halves):
        part = features[:, :, :, x, y, z].astype(np.float32)
        found.append(part.reshape(*part.shape[:3], -1).transpose(1, 2, 0, 3))
    return found


def _parts(octants: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over octants (..., 8) -> those over `PARTS` (..., 11)."""
    whole, left, right = octants.sum(-1), octants[..., :4].sum(-1), octants[..., 4:].sum(-1)
    return np.concatenate([np.stack([whole, left, right], axis=-1), octants], axis=-1)
