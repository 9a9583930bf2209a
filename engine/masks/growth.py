"""A mask at several volumes, each containing the smaller ones: it grows out of its core, then into the brain around."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

Mask = NDArray[np.bool_]
Label = NDArray[np.uint8]
Sides = tuple[float, float, float]

_DEPTH_MM = 1.0  # added to the depth that growth is faster with
_UNREACHED = np.inf


def grown(label: Label, brain: Mask, spacing_mm: Sides, volumes_ml: Sequence[float]) -> list[Label]:
    """The mask (x, y, z) at rising volumes.

    A voxel of the mask comes the earlier the nearer it is to the deepest voxel of the core (of the mask where there is
    no core), by paths inside the mask that are short where it is deep; then the brain's voxels come by their distance
    from it. So every mask holds the smaller ones, at the mask's own volume it is the mask, and where the mask is one
    piece all are. The shares of the tissues are the mask's own; core and necrosis, too, hold those of smaller volumes.

    Args:
        label: 1 NCR, 2 ED, 3 ET.
        brain: where it may grow.
        spacing_mm: of a voxel.
        volumes_ml: rising; what the brain has no room for is left out.
    """
    regions = [label > 0, (label == 1) | (label == 3), label == 1]
    seeds = regions[1] if regions[1].any() else regions[0]
    orders = [_order(region if region.any() else seeds, brain | regions[0], spacing_mm, seeds) for region in regions]
    own = [int(region.sum()) for region in regions]
    made, before = list[Label](), [np.zeros(label.shape, bool) for _ in regions]
    for volume in volumes_ml:
        wanted = max(1, round(volume * 1000 / float(np.prod(spacing_mm))))
        counts = own if wanted == own[0] else [wanted, *(round(wanted * count / own[0]) for count in own[1:])]
        within = np.isfinite(orders[0])
        for k, (order, count) in enumerate(zip(orders, counts, strict=True)):
            exact = regions[k] if counts is own else None
            before[k] = _first(order, within, before[k], count) if exact is None else exact | before[k]
            within = before[k]
        made.append(np.select([before[2], before[1], before[0]], [1, 3, 2], 0).astype(np.uint8))
    return made


def _order(region: Mask, allowed: Mask, spacing_mm: Sides, seeds: Mask) -> NDArray[np.float64]:
    """When a growing region reaches a voxel: 0 to 1 inside, above 1 outside, infinite beyond what is allowed."""
    depth = np.asarray(ndimage.distance_transform_edt(region, spacing_mm))
    deepest = int(np.argmax(np.where(seeds & region, depth, -1.0)))
    first = [int(at) for at in np.unravel_index(deepest, region.shape)]
    inside = _arrival(np.where(region, 1 / (depth + _DEPTH_MM), -1.0), [first], spacing_mm)
    reached = np.isfinite(inside)
    order = np.where(region, 1.0, _UNREACHED)  # pieces beside the one that it begins in come last
    order[reached] = inside[reached] / max(float(inside[reached].max()), 1e-9)
    surface = np.argwhere(region & ~np.asarray(ndimage.binary_erosion(region), bool))
    outside = _arrival(np.where(allowed | region, 1.0, -1.0), surface.tolist(), spacing_mm)
    return np.where(region, order, np.where(allowed, 1.0 + outside, _UNREACHED))


def _arrival(costs: NDArray[np.float64], starts: Sequence[Sequence[int]], spacing_mm: Sides) -> NDArray[np.float64]:
    found, _ = MCP_Geometric(costs, sampling=spacing_mm).find_costs(starts)
    return np.asarray(found)


def _first(order: NDArray[np.float64], within: Mask, kept: Mask, count: int) -> Mask:
    """`count` voxels `within`, those that are kept before all others, then the earliest."""
    at = np.flatnonzero(within & np.isfinite(order) | kept)
    rank = np.where(kept.reshape(-1)[at], -1.0, order.reshape(-1)[at])
    chosen = np.zeros(order.size, bool)
    chosen[at[np.argsort(rank, kind="stable")[:count]]] = True
    return chosen.reshape(order.shape)
