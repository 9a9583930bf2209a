"""A glioma: where it sits, how it grows along white matter, what it pushes aside, which tissue is where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom
from skimage.graph import MCP_Geometric

from ...engine.anatomy.deformation import pushed_outward
from .fields import FIELD_MM, SHAPE, Box, FloatArray, node_positions, smooth_noise
from .head import Head, Voxels
from .regions import blurred, box_of, depth_of, pieces_of_at_least, without_holes
from .statistics import draw_place, draw_shares

NCR, ED, ET = 1, 2, 3

_PLACE_BLUR_MM = 7.0  # how far the tumour may start from the drawn place
_FOCI_SHARES = (0.80, 0.15, 0.05)  # one, two, three cores
_LEAST_FOCUS_ML = 0.3
_SPEED_GREY, _SPEED_FLUID = 0.22, 0.02  # of oedema, relative to white matter


@dataclass(frozen=True)
class Plan:
    """What is decided about a tumour before it grows."""

    volume: int  # mm^3 of the whole tumour
    core: int  # mm^3 of necrosis and enhancing tumour together
    enhancing: float  # share of the core
    roughness: float  # 0..1
    centre: NDArray[np.float32]  # (3,) voxel
    push: float  # displacement at the core's edge over the core's radius
    foci: int

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
    """Draw size, composition and place as in real masks; the core lies in the head's tissue."""
    shares = draw_shares(rng)
    core = max(shares.core_share * shares.volume_ml, 0.2)
    centre = _draw_centre(rng, head, (3000 * core / (4 * np.pi)) ** (1 / 3))
    foci = 1 + int(rng.choice(len(_FOCI_SHARES), p=_FOCI_SHARES))
    push = float(rng.uniform(0.05, 0.55))
    return Plan(
        int(1000 * shares.volume_ml), int(1000 * core), shares.enhancing_of_core, shares.roughness, centre, push, foci
    )


def _draw_centre(rng: np.random.Generator, head: Head, radius: float) -> NDArray[np.float32]:
    """A node in solid tissue near the drawn place, deep enough for a core of this radius."""
    wanted = (draw_place(rng) - 0.5) * FIELD_MM + (np.array(SHAPE) - 1) / 2
    away = node_positions() - wanted.astype(np.float32)[:, None, None, None]
    depth, white, grey, ventricle = head.maps
    solid = np.clip(white + 0.5 * grey, 0, 1) * np.clip(1 - 3 * ventricle, 0, 1)
    room = np.clip(depth / np.clip(0.7 * radius + 1, 3, 18), 0, 1) ** 3
    nearness = np.exp(-(away**2).sum(0) / (2 * _PLACE_BLUR_MM**2)) + 1e-12
    weight = (solid * room * nearness * (depth > 2)).astype(np.float64).ravel()
    chosen = int(rng.choice(weight.size, p=weight / weight.sum()))
    return (node_positions().reshape(3, -1)[:, chosen] + rng.uniform(-2, 2, 3)).astype(np.float32)


def mass_effect(plan: Plan, head: Head) -> FloatArray:
    """How far tissue is moved outward, (3, X, Y, Z) mm at the nodes.

    The displacement grows up to the core's edge, falls off exponentially beyond it, and vanishes at the skull.
    """
    outward = pushed_outward(node_positions(), plan.centre, plan.radius, plan.push)
    return (outward * np.clip(head.depth / 16, 0, 1)).astype(np.float32)


def grow(rng: np.random.Generator, plan: Plan, voxels: Voxels) -> Growth:
    """Grow `plan` into `voxels`: core from a random level set, oedema by travel time through white matter."""
    box, local = _surroundings(plan, voxels)
    brain = voxels.brain[local]
    fluid = voxels.volume(voxels.csf + voxels.ventricle)[local]
    core = _grow_core(rng, plan, box, brain, fluid)
    time = _travel_time(rng, plan, box, core, brain, voxels.volume(voxels.white)[local], fluid)
    room = brain & ~core & (fluid < 0.5)
    limit = _threshold(time[room], plan.volume - int(core.sum()))
    oedema = room & (time <= limit) if plan.volume > core.sum() else np.zeros_like(room)
    whole = pieces_of_at_least(
        _without_pinholes(oedema | core) & brain, int(1000 * min(_LEAST_FOCUS_ML, 1e-4 * plan.volume))
    )
    labels = np.where(whole, np.uint8(ED), np.uint8(0))
    inside = core & whole
    labels[inside] = _inner(rng, plan, box, inside)[inside]
    reach = np.clip(time / np.float32(max(limit, 1e-3)), 0, 1).astype(np.float32)
    return Growth(local, labels, reach)


def _surroundings(plan: Plan, voxels: Voxels) -> tuple[Box, Box]:
    """The tumour's box on the grid and the same box inside the brain's box."""
    reach = 1.8 * (3 * plan.volume / (4 * np.pi)) ** (1 / 3) + 12
    parts, locals_ = [], []
    for centre, outer, size in zip(plan.centre, voxels.box, SHAPE, strict=True):
        low = max(int(centre - reach), outer.start, 0)
        high = min(int(centre + reach) + 1, outer.stop, size)
        parts.append(slice(low, high))
        locals_.append(slice(low - outer.start, high - outer.start))
    return (parts[0], parts[1], parts[2]), (locals_[0], locals_[1], locals_[2])


def _grow_core(
    rng: np.random.Generator, plan: Plan, box: Box, brain: NDArray[np.bool_], fluid: FloatArray
) -> NDArray[np.bool_]:
    """The level set of merged lobes and noise that holds the wanted volume; foci of their own lie farther away."""
    axes = [np.arange(part.start, part.stop, dtype=np.float32) for part in box]
    lobes = int(rng.choice(4, p=(0.35, 0.3, 0.2, 0.15))) + 1
    near = np.zeros(brain.shape, np.float32)
    for number in range(lobes + plan.foci - 1):
        apart = number >= lobes
        spread = rng.uniform(1.6, 3.0) if apart else 0.0 if number == 0 else 0.55
        share = 1.0 if number == 0 else rng.uniform(0.2, 0.7) if apart else rng.uniform(0.45, 0.9)
        offset = rng.normal(0, 1, 3)
        offset *= spread * plan.radius / (np.linalg.norm(offset) / np.sqrt(3) if apart else 1.0)
        reach = plan.radius * share * np.exp(rng.normal(0, 0.16, 3))
        x, y, z = (
            (((axis - middle) / length) ** 2).astype(np.float32)
            for axis, middle, length in zip(axes, plan.centre + offset, reach, strict=True)
        )
        near += np.exp(-2 * np.sqrt(x[:, None, None] + y[:, None] + z))
    level = -0.5 * np.log(near + 1e-12)
    coarse = 0.10 + 0.32 * plan.roughness * rng.uniform(0.6, 1.0)
    level += coarse * smooth_noise(rng, box, float(np.clip(0.8 * plan.radius, 5, 16)))
    level += 0.6 * coarse * smooth_noise(rng, box, float(np.clip(0.4 * plan.radius, 3.5, 8)))
    level += float(np.clip(1.0 / plan.radius, 0.02, 0.12)) * smooth_noise(rng, box, 3.0)
    level += 0.7 * blurred(fluid, 1.0)
    level = np.where(brain, level, np.inf).astype(np.float32)
    core = level <= _threshold(level[brain], plan.core)
    kept = pieces_of_at_least(core, int(min(1000 * _LEAST_FOCUS_ML, 0.2 * plan.core)))
    return _filled(kept if kept.any() else core) & brain


def _travel_time(
    rng: np.random.Generator,
    plan: Plan,
    box: Box,
    core: NDArray[np.bool_],
    brain: NDArray[np.bool_],
    white: FloatArray,
    fluid: FloatArray,
) -> FloatArray:
    """Time to the core in white-matter millimetres, over a grid of 2 mm, as a smooth map of the box's shape."""
    speed = white + _SPEED_GREY * np.clip(1 - white - fluid, 0, 1) + _SPEED_FLUID * fluid
    lanes = 0.15 + 0.7 * plan.roughness
    speed *= np.exp(lanes * (smooth_noise(rng, box, 12.0) + 0.5 * smooth_noise(rng, box, 5.0)))
    cost = 2 / np.clip(_halve(np.where(brain, speed, 0)), 0.01, None)
    seeds = np.argwhere(_halve(core.astype(np.float32)) >= 0.5)
    if len(seeds) == 0:
        seeds = np.argwhere(core)[:1] // 2
    times, _ = MCP_Geometric(cost).find_costs(seeds.tolist())
    padded = np.pad(times.astype(np.float32), 1, mode="edge")
    fine = np.asarray(zoom(padded, 2, order=1, grid_mode=True, mode="nearest", prefilter=False))[2:, 2:, 2:]
    fine = np.clip(fine[: core.shape[0], : core.shape[1], : core.shape[2]], 0, 400).astype(np.float32, copy=False)
    return (blurred(fine, 1.0) + np.float32(1.2) * fluid).astype(np.float32, copy=False)


def _halve(values: FloatArray) -> FloatArray:
    """Means over blocks of 2 voxels along each axis, the last block repeated where the size is odd."""
    even = np.pad(values, np.array([(0, n % 2) for n in values.shape]), mode="edge")
    x, y, z = (n // 2 for n in even.shape)
    return even.reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))


def _inner(rng: np.random.Generator, plan: Plan, box: Box, core: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Necrosis and enhancing tumour inside `core`: from a closed rim to mere patches, of exactly the wanted share."""
    depth = _depth(core)
    patches = smooth_noise(rng, box, 8.0) + 0.7 * smooth_noise(rng, box, 4.0)
    ring = float(rng.beta(1.2, 0.9))
    score = (1 - ring) * patches - ring * (1 + 0.35 * patches) * depth * np.float32(6 / max(float(depth.max()), 1.0))
    wanted = round(plan.enhancing * int(core.sum()))
    if wanted == 0:
        return np.full(core.shape, NCR, np.uint8)
    return np.where(score >= -_threshold((-score[core]).astype(np.float32), wanted), np.uint8(ET), np.uint8(NCR))


def _depth(mask: NDArray[np.bool_]) -> FloatArray:
    """mm below the surface of `mask`, 0 outside."""
    depth, part = np.zeros(mask.shape, np.float32), box_of(mask)
    depth[part] = depth_of(np.pad(mask[part], 1))[1:-1, 1:-1, 1:-1]
    return depth


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    filled, part = np.zeros_like(mask), box_of(mask)
    filled[part] = without_holes(mask[part])
    return filled


def _threshold(values: FloatArray, count: int) -> float:
    """The value at or below which `count` of `values` lie; all of them if there are fewer."""
    count = min(max(count, 1), values.size)
    return float(np.partition(values, count - 1)[count - 1])


def _without_pinholes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return blurred(mask.astype(np.float32), 0.9) > 0.45
