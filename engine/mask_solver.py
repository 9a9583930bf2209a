"""From distance maps to a label whose numbers hold by construction: volume, shares, place, box and surface.

A mask denoiser makes three coarse maps of signed distances in mm, negative inside: of the whole tumour, of its core
(NCR and ET) and of the necrosis. The level at which each is cut is moved until exactly the wanted voxels lie below it;
centre and box are met by moving and stretching the maps, the surface by adding noise to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .blocks import bounding_box
from .conditions.columns import COLUMNS
from .output.measure import TumourMeasurement, measure_tumour

MAPS = ("wt", "tc", "ncr")  # signed distances of whole tumour, core and necrosis
ROUNDS = 8  # of moving, stretching and roughening, at most
NEAR = 0.01  # a miss after which no other round is tried
SURFACE_WEIGHT = 0.2  # of a relative error of the surface, beside errors of place and box in shares of the field
FIRST_ROUGHNESS_MM = 1.0  # deviation of the noise that is tried first where the surface is too small
LARGEST_ROUGHNESS_MM = 8.0
INNER_ROUGHNESS = 0.25  # of the noise on core and necrosis, whose surfaces are smoother than the oedema's
STRETCH = (0.4, 2.5)  # of the maps along an axis
MARGIN = 8  # voxels around the wanted box within which the tumour may lie
SMALLEST_PIECE = 0.02  # share of the tumour; a smaller piece is dropped and its voxels are taken elsewhere
TISSUE_ORDER = 0.05  # how much the next outer map decides where an inner one is flat
_STRIDE = 16  # of the values that a level is guessed from
_TOUCHING = np.ones((3, 3, 3), dtype=bool)

Fields = NDArray[np.float32]
Region = tuple[slice, slice, slice]
Triple = NDArray[np.float64]


@dataclass(frozen=True)
class SolvedMask:
    """A label (x, y, z) uint8 with 1 NCR, 2 ED, 3 ET, what it measures, and the roughness that was needed."""

    label: NDArray[np.uint8]
    measured: TumourMeasurement
    roughness_mm: float


@dataclass(frozen=True)
class _Pose:
    """Where maps are looked up: share p of the field of view is taken from origin + (p - place) / stretch."""

    origin: Triple
    place: Triple
    stretch: Triple


def noise_size(shape: Sequence[int]) -> int:
    """Standard normals that `solve_mask` takes for a grid: two fields of half the resolution."""
    x, y, z = shape
    return 2 * (x // 2) * (y // 2) * (z // 2)


def solve_mask(
    maps: Fields,
    wanted: NDArray[np.float64],
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    noise: NDArray[np.float32] | None,
    shown: tuple[Triple, Triple] | None = None,
) -> SolvedMask:
    """The label of one tumour.

    Volume and shares are met to the voxel. Centre, box and surface are met as nearly as `ROUNDS` rounds bring them (the
    best round counts, the first that is `NEAR` the last); a surface smaller than that of the smooth maps is not met.

    Args:
        maps: (3, z, x, y) signed distances in mm, order `MAPS`, at a resolution of the same field of view.
        wanted: (12,) `COLUMNS` in their own units, no NaN.
        shape: x, y, z of the label, even numbers.
        spacing_mm: of the label.
        noise: (noise_size(shape),) standard normals; None: the surface is left as the maps have it.
        shown: centre and sides (3,) of the box of the tumour in the maps, shares of the field; None: as wanted.
    """
    row: dict[str, float] = dict(zip(COLUMNS, wanted.tolist(), strict=True))
    place = np.array([row[name] for name in "xyz"])
    sides = np.array([row[name] for name in "whd"])
    region = _region(place, sides, shape)
    counts = wanted_voxels(row, spacing_mm, int(np.prod([s.stop - s.start for s in region])))
    rough = np.float32(0) if noise is None else _roughness(noise, shape, region)
    origin, stretch = (place, np.ones(3)) if shown is None else (shown[0], np.clip(sides / shown[1], *STRETCH))
    pose, tried = _Pose(origin, place, stretch), [(0.0, 0.0)]
    amplitude, best, least = 0.0, None, np.inf
    for _ in range(ROUNDS):
        label = np.zeros(shape, np.uint8)
        fields = (_looked_up(maps, shape, region, pose) + np.float32(amplitude) * rough).astype(np.float32)
        label[region] = cut(fields, counts)
        measured = measure_tumour(label, spacing_mm)
        miss = _miss(measured, row)
        if best is None or miss < least:
            best, least = SolvedMask(label, measured, amplitude), miss
        if miss <= NEAR:
            break
        pose = _nearer(pose, measured, sides)
        tried.append((amplitude, measured.surface_cm2))
        amplitude = _next_roughness(tried[1:], row["surface_cm2"])
    assert best is not None
    return best


def wanted_voxels(row: Mapping[str, float], spacing_mm: tuple[float, float, float], most: int) -> tuple[int, int, int]:
    """Voxels of whole tumour, core and necrosis; at least one, at most `most` of the tumour."""
    whole = min(max(1, round(row["volume_ml"] * 1000 / float(np.prod(spacing_mm)))), most)
    necrosis = round(row["ncr_share"] * whole)
    core = min(whole, necrosis + round(row["et_share"] * whole))
    return whole, core, min(necrosis, core)


def cut(fields: Fields, counts: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Label (x, y, z) of fields (3, x, y, z): the lowest voxels of each, nested, as many as `counts` says."""
    whole, core, necrosis = counts
    outer = _without_small_pieces(fields[0], whole)
    label = np.where(outer, np.uint8(2), np.uint8(0))
    inner = _lowest(fields[1] + np.float32(TISSUE_ORDER) * fields[0], outer, core)
    label[inner] = 3
    label[_lowest(fields[2] + np.float32(TISSUE_ORDER) * fields[1], inner, necrosis)] = 1
    return label


def _lowest(field: Fields, within: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """The `count` lowest voxels among those `within`, all where there are fewer; of equals the first ones."""
    values = field[within]
    chosen = np.ones(values.size, bool)
    if count < values.size:
        level = _level(values, count) if count else -np.inf
        chosen = values < level
        equal = np.flatnonzero(values == level)
        chosen[equal[: count - np.count_nonzero(chosen)]] = True
    lowest = np.zeros(field.shape, bool)
    lowest[within] = chosen
    return lowest


def _level(values: NDArray[np.float32], count: int) -> np.float32:
    """The `count`-th lowest value; looked for below a guess by every `_STRIDE`-th, which is nearly always above it."""
    some = values[::_STRIDE]
    place = min(count // _STRIDE + count // (4 * _STRIDE) + _STRIDE, some.size - 1)
    low = values[values <= np.partition(some, place)[place]]
    if low.size < count:
        low = values
    return np.partition(low, count - 1)[count - 1]


def _without_small_pieces(field: Fields, count: int) -> NDArray[np.bool_]:
    """The `count` lowest voxels; pieces below `SMALLEST_PIECE` of them are given up for voxels elsewhere."""
    allowed = np.ones(field.shape, bool)
    chosen = _lowest(field, allowed, count)
    for _ in range(3):
        box = bounding_box(chosen)
        pieces, number = ndimage.label(chosen[box], structure=_TOUCHING)  # pyright: ignore[reportGeneralTypeIssues]
        if number < 2:
            break
        sizes = np.bincount(np.asarray(pieces).ravel())
        sizes[0] = count
        small = np.asarray(sizes < SMALLEST_PIECE * count)
        if not small.any() or np.count_nonzero(allowed) - sizes[small].sum() < count:
            break
        allowed[box] &= ~small[np.asarray(pieces, np.intp)]
        chosen = _lowest(field, allowed, count)
    return chosen


def _region(place: Triple, sides: Triple, shape: tuple[int, int, int]) -> Region:
    """The voxels in which the tumour may lie: the wanted box and a margin."""
    low = np.floor((place - 0.75 * sides) * shape).astype(int) - MARGIN
    high = np.ceil((place + 0.75 * sides) * shape).astype(int) + MARGIN
    spans = [slice(max(0, a), min(n, b)) for a, b, n in zip(low.tolist(), high.tolist(), shape, strict=True)]
    return spans[0], spans[1], spans[2]


def _looked_up(maps: Fields, shape: tuple[int, int, int], region: Region, pose: _Pose) -> Fields:
    """Maps (m, z, x, y) at the voxels of a region: (m, x, y, z)."""
    rows = []
    for axis, coarse in enumerate((maps.shape[2], maps.shape[3], maps.shape[1])):
        share = (np.arange(region[axis].start, region[axis].stop) + 0.5) / shape[axis]
        share = pose.origin[axis] + (share - pose.place[axis]) / pose.stretch[axis]
        rows.append(_cubic(share * coarse - 0.5, coarse))
    count, z, x, y = maps.shape
    by_x = rows[0] @ maps.transpose(0, 2, 3, 1).reshape(count, x, y * z)
    by_y = rows[1] @ by_x.reshape(count, -1, y, z)
    return (by_y.reshape(-1, z) @ np.ascontiguousarray(rows[2].T)).reshape(*by_y.shape[:3], -1)


def _cubic(at: Triple, size: int) -> Fields:
    """Cubic convolution (Keys 1981, a = -1/2) of `size` samples at `at`, edges repeated: (len(at), size)."""
    weights = np.zeros((at.size, size), np.float32)
    first = np.floor(at).astype(int)
    for step in range(-1, 3):
        d = np.abs(at - (first + step))
        near, far = 1.5 * d**3 - 2.5 * d**2 + 1.0, -0.5 * d**3 + 2.5 * d**2 - 4.0 * d + 2.0
        np.add.at(weights, (np.arange(at.size), np.clip(first + step, 0, size - 1)), np.where(d < 1.0, near, far))
    return weights


def _roughness(noise: NDArray[np.float32], shape: tuple[int, int, int], region: Region) -> Fields:
    """Fields (3, x, y, z) in a region: of unit deviation for the whole tumour, another, weaker one inside."""
    x, y, z = shape
    coarse = noise.reshape(2, z // 2, x // 2, y // 2)
    coarse = ndimage.gaussian_filter(coarse, (0.0, 0.6, 0.8, 0.8), mode="nearest")
    coarse = coarse / coarse.std(axis=(1, 2, 3), keepdims=True)
    fields = _looked_up(coarse, shape, region, _Pose(np.zeros(3), np.zeros(3), np.ones(3)))
    return fields[[0, 1, 1]] * np.array([1, INNER_ROUGHNESS, INNER_ROUGHNESS], np.float32)[:, None, None, None]


def _nearer(pose: _Pose, measured: TumourMeasurement, sides: Triple) -> _Pose:
    """The pose that would have met centre and box, if the label moved and stretched as the maps do."""
    centre = np.array([measured.x, measured.y, measured.z])
    found = np.array([measured.w, measured.h, measured.d])
    origin = pose.origin + (centre - pose.place) / pose.stretch
    return _Pose(origin, pose.place, np.clip(pose.stretch * sides / found, *STRETCH))


def _next_roughness(tried: Sequence[tuple[float, float]], wanted: float) -> float:
    """The next amplitude from (amplitude, surface) pairs: secant through the last two."""
    amplitude, surface = tried[-1]
    if len(tried) == 1:
        return FIRST_ROUGHNESS_MM if surface < wanted else 0.0
    before, surface_before = tried[-2]
    if amplitude == before or surface == surface_before:
        return amplitude if surface >= wanted else min(LARGEST_ROUGHNESS_MM, 1.3 * amplitude + 0.1)
    step = (wanted - surface) * (amplitude - before) / (surface - surface_before)
    return float(np.clip(amplitude + np.clip(step, -1.5, 1.5), 0.0, LARGEST_ROUGHNESS_MM))


def _miss(measured: TumourMeasurement, row: Mapping[str, float]) -> float:
    """How far a round is from what is wanted: root of the squared errors of place, box and weighted surface."""
    errors = [getattr(measured, name) - row[name] for name in "xyzwhd"]
    return float(np.linalg.norm([*errors, SURFACE_WEIGHT * (measured.surface_cm2 / row["surface_cm2"] - 1.0)]))
