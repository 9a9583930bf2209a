"""A glioma: where it sits, how it grows along white matter, what it pushes aside, which tissue is where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom
from skimage.graph import MCP_Geometric

from .anatomy import Head, Tissue
from .fields import SHAPE, Box, FloatArray, node_positions, smooth_noise
from .regions import blurred, depth_of, largest_piece, without_holes

Kind = Literal["ring", "patchy", "solid", "plain"]
NCR, ED, ET = 1, 2, 3

_KINDS: tuple[Kind, ...] = ("ring", "patchy", "solid", "plain")
_KIND_SHARES = (0.62, 0.20, 0.08, 0.10)
_MEDIAN_ML, _SPREAD, _LEAST_ML, _MOST_ML = 40.0, 1.2, 1.5, 180.0
_SPEED_GREY, _SPEED_CSF = 0.2, 0.02  # of oedema, relative to white matter


@dataclass(frozen=True)
class Plan:
    """What is decided about a tumour before it grows."""

    volume: int  # mm^3 of the whole tumour
    core: int  # mm^3 of necrosis and enhancing tumour together
    kind: Kind
    centre: NDArray[np.float32]  # (3,) voxel
    push: float  # displacement at the core's edge over the core's radius

    @property
    def radius(self) -> float:
        """mm, of a ball of the core's volume."""
        return float((3 * self.core / (4 * np.pi)) ** (1 / 3))


@dataclass(frozen=True)
class Growth:
    """A grown tumour in the voxels of `box`, which lies inside the brain's box."""

    box: Box
    labels: NDArray[np.uint8]  # 0, NCR, ED, ET
    reach: FloatArray  # 0 at the core's edge, 1 at the rim of the oedema


def plan_tumour(rng: np.random.Generator, head: Head) -> Plan:
    """Draw size, composition and place; the core fits below the brain's surface, mostly above the tentorium."""
    volume = 0.0
    while not _LEAST_ML <= volume <= _MOST_ML:
        volume = float(np.exp(rng.normal(np.log(_MEDIAN_ML), _SPREAD)))
    kind = _KINDS[int(rng.choice(len(_KINDS), p=_KIND_SHARES))]
    share = float(np.clip(rng.beta(2.0, 3.0), 0.06, 0.85))
    if kind == "plain":
        share = float(rng.uniform(0.3, 0.85))
    core = max(share * volume, 0.4)
    radius = (3000 * core / (4 * np.pi)) ** (1 / 3)
    centre = _draw_centre(rng, head, radius)
    return Plan(int(1000 * volume), int(1000 * core), kind, centre, float(rng.uniform(0.1, 0.55)))


def _draw_centre(rng: np.random.Generator, head: Head, radius: float) -> NDArray[np.float32]:
    x, y, z = head.place
    _, grey, white, _, ventricle = head.maps
    solid = (grey > 0) | (white > 0)
    hollow = ventricle > 0.2
    below = (y < -30) & (z < -12 - 0.35 * (y + 60)) | ((np.abs(x) < 22) & (y > -48) & (y < -4) & (z < -4))
    weight = np.where(below, 0.06, 1.0) * np.where(np.abs(x) < 8, 0.3, 1.0)
    depth = np.clip(0.75 * radius + 1.0, 3.0, 20.0)
    weight = weight * solid * ~hollow * (head.depth > depth) * np.where(head.depth > depth + 14, 0.6, 1.0)
    weight = weight * np.clip(1 - 4 * blurred(ventricle, 0.12 * radius), 0.05, 1) * (node_positions()[2] > 3)
    chosen = int(rng.choice(weight.size, p=(weight / weight.sum()).ravel()))
    return (node_positions().reshape(3, -1)[:, chosen] + rng.uniform(-2, 2, 3)).astype(np.float32)


def mass_effect(plan: Plan, head: Head) -> tuple[FloatArray, FloatArray]:
    """How far tissue is moved outward, (3, X, Y, Z) mm at the nodes, and how far sulci close, (X, Y, Z) 0..1.

    The displacement grows up to the core's edge, falls off exponentially beyond it, and vanishes at the skull.
    """
    away = node_positions() - plan.centre[:, None, None, None]
    distance = np.sqrt((away**2).sum(0)) + np.float32(1e-3)
    ratio = distance / np.float32(plan.radius)
    size = plan.push * plan.radius * np.where(ratio < 1, ratio, np.exp(-(ratio - 1) / 1.6))
    held = np.clip(head.depth / 16, 0, 1)
    outward = away / distance * size * held
    whole = (3 * plan.volume / (4 * np.pi)) ** (1 / 3)
    effacement = np.exp(-np.clip(distance - 0.9 * whole, 0, None) / 6) * min(1.0, 2.5 * plan.push)
    return outward.astype(np.float32), effacement.astype(np.float32)


def grow(rng: np.random.Generator, plan: Plan, tissue: Tissue) -> Growth:
    """Grow `plan` into `tissue`: core from a random level set, oedema by travel time through white matter."""
    box, local = _surroundings(plan, tissue)
    brain = tissue.brain[local]
    core = _grow_core(rng, plan, box, brain, tissue.csf[local], tissue.ventricle[local])
    time = _travel_time(rng, box, core, tissue, local)
    room = brain & ~core & (tissue.csf[local] < 0.5)
    limit = _threshold(time[room], plan.volume - int(core.sum()))
    oedema = room & (time <= limit)
    whole = largest_piece(_without_pinholes(oedema | core) & brain)
    labels = np.where(whole, np.uint8(ED), np.uint8(0))
    inside = core & whole
    labels[inside] = _inner(rng, plan, box, inside)[inside]
    reach = np.clip(time / np.float32(max(limit, 1e-3)), 0, 1).astype(np.float32)
    return Growth(local, labels, reach)


def _surroundings(plan: Plan, tissue: Tissue) -> tuple[Box, Box]:
    """The tumour's box on the grid and the same box inside the brain's box."""
    reach = 1.9 * (3 * plan.volume / (4 * np.pi)) ** (1 / 3) + 14
    parts, locals_ = [], []
    for centre, outer, size in zip(plan.centre, tissue.box, SHAPE, strict=True):
        low = max(int(centre - reach), outer.start, 0)
        high = min(int(centre + reach) + 1, outer.stop, size)
        parts.append(slice(low, high))
        locals_.append(slice(low - outer.start, high - outer.start))
    return (parts[0], parts[1], parts[2]), (locals_[0], locals_[1], locals_[2])


def _grow_core(
    rng: np.random.Generator,
    plan: Plan,
    box: Box,
    brain: NDArray[np.bool_],
    csf: FloatArray,
    ventricle: FloatArray,
) -> NDArray[np.bool_]:
    axes = [np.arange(part.start, part.stop, dtype=np.float32) for part in box]
    position = np.stack(np.meshgrid(*axes, indexing="ij"))
    lobes = int(rng.choice(4, p=(0.35, 0.3, 0.2, 0.15))) + 1
    near = np.zeros(brain.shape, np.float32)
    for number in range(lobes):
        offset = np.zeros(3) if number == 0 else rng.normal(0, 0.55 * plan.radius, 3)
        reach = plan.radius * (1 if number == 0 else rng.uniform(0.45, 0.9)) * np.exp(rng.normal(0, 0.16, 3))
        away = (position - (plan.centre + offset).astype(np.float32)[:, None, None, None]) / reach.astype(np.float32)[
            :, None, None, None
        ]
        near += np.exp(-2 * np.sqrt((away**2).sum(0)))
    level = -0.5 * np.log(near + 1e-12)
    fine, coarse = np.clip(4.0 / plan.radius, 0.05, 0.5), float(rng.uniform(0.12, 0.3))
    level += coarse * smooth_noise(rng, box, float(np.clip(0.8 * plan.radius, 5, 16)))
    level += 0.6 * coarse * smooth_noise(rng, box, float(np.clip(0.4 * plan.radius, 3.5, 8)))
    level += 0.25 * fine * smooth_noise(rng, box, 3.0)
    level += 0.35 * blurred(csf, 1.0) + 0.6 * ventricle
    level = np.where(brain, level, np.inf).astype(np.float32)
    core = largest_piece(level <= _threshold(level[brain], plan.core))
    return without_holes(core) & brain


def _travel_time(rng: np.random.Generator, box: Box, core: NDArray[np.bool_], tissue: Tissue, local: Box) -> FloatArray:
    """Time to the core in white-matter millimetres, over a grid of 2 mm, as a smooth map of the box's shape."""
    speed = tissue.white[local] + _SPEED_GREY * tissue.grey[local] + _SPEED_CSF * tissue.csf[local]
    speed *= np.exp(0.55 * smooth_noise(rng, box, 11.0) + 0.3 * smooth_noise(rng, box, 5.0))
    cost = 2 / np.clip(_halve(np.where(tissue.brain[local], speed, 0)), 0.01, None)
    seeds = np.argwhere(_halve(core.astype(np.float32)) >= 0.5)
    if len(seeds) == 0:
        seeds = np.argwhere(core)[:1] // 2
    times, _ = MCP_Geometric(cost).find_costs(seeds.tolist())
    padded = np.pad(times.astype(np.float32), 1, mode="edge")
    fine = np.asarray(zoom(padded, 2, order=1, grid_mode=True, mode="nearest", prefilter=False))[2:, 2:, 2:]
    fine = np.clip(fine[: core.shape[0], : core.shape[1], : core.shape[2]], 0, 400).astype(np.float32, copy=False)
    return (blurred(fine, 0.8) + np.float32(1.2) * tissue.csf[local]).astype(np.float32, copy=False)


def _halve(values: FloatArray) -> FloatArray:
    """Means over blocks of 2 voxels along each axis, the last block repeated where the size is odd."""
    even = np.pad(values, [(0, n % 2) for n in values.shape], mode="edge")
    x, y, z = (n // 2 for n in even.shape)
    return even.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))


def _inner(rng: np.random.Generator, plan: Plan, box: Box, core: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Necrosis and enhancing tumour inside `core`."""
    if plan.kind == "plain":
        return np.full(core.shape, NCR, np.uint8)
    if plan.kind == "solid":
        return np.full(core.shape, ET, np.uint8)
    texture = smooth_noise(rng, box, 4.0)
    if plan.kind == "patchy":
        islands = texture + 0.7 * smooth_noise(rng, box, 7.0)
        return np.where(islands > rng.uniform(0.3, 1.4), np.uint8(NCR), np.uint8(ET))
    depth = depth_of(np.pad(core, 1))[1:-1, 1:-1, 1:-1]
    thickness = float(np.clip(np.exp(rng.normal(np.log(0.22 * plan.radius), 0.4)), 1.4, 9.0))
    unevenness, gaps = rng.uniform(0.25, 0.6), rng.uniform(-0.1, 0.25)
    local = thickness * (1 - gaps + unevenness * smooth_noise(rng, box, 8.0)) + 0.35 * thickness * texture
    return np.where(depth <= np.maximum(local, 0), np.uint8(ET), np.uint8(NCR))


def _threshold(values: FloatArray, count: int) -> float:
    """The value at or below which `count` of `values` lie; all of them if there are fewer."""
    count = min(max(count, 1), values.size)
    return float(np.partition(values, count - 1)[count - 1])


def _without_pinholes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return blurred(mask.astype(np.float32), 0.7) > 0.45
