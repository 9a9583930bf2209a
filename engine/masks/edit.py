"""A given mask moved and scaled by numbers: what a row of conditions asks of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..bundle.manifest import Grid
from ..conditions.columns import COLUMNS, SHARE_COLUMNS
from ..mask_solver import solve_mask
from ..output.measure import TumourMeasurement, measure_tumour

FOLLOWS = ("surface_cm2", "sphericity")
"""Columns that a mask has by its shape: no edit of place, size and shares sets them."""

AGREEMENT = 0.1  # how far the volume may be from what the sides of its box make of the mask
LARGEST_FACTOR = 8.0  # of the volume, either way
PLACE, SIDES = ("x", "y", "z"), ("w", "h", "d")


class EditFault(Exception):
    """Why a row cannot be asked of a mask."""

    def __init__(self, column: str, value: float, allowed: str) -> None:
        super().__init__(f"{column}: {value:g}: {allowed}")
        self.column, self.value, self.allowed = column, value, allowed


def edited_mask(label: NDArray[np.uint8], asked: Mapping[str, float], grid: Grid) -> NDArray[np.uint8]:
    """The mask (x, y, z) with the characteristics that are asked for, all others its own.

    Volume and shares are met to the voxel. A volume alone scales the mask evenly; sides of the box scale it along their
    axes; both together hold where they agree, and leave the axes that no side is given for to the volume.

    Raises:
        EditFault: what is asked for contradicts itself or the mask.
    """
    if not asked:
        return label
    own = measure_tumour(label, grid.spacing_mm)
    wanted = _wanted(own, asked)
    shown = np.array([getattr(own, name) for name in PLACE]), np.array([getattr(own, name) for name in SIDES])
    row = np.array([wanted[name] for name in COLUMNS])
    return solve_mask(distance_maps(label, grid.spacing_mm), row, grid.shape, grid.spacing_mm, None, shown).label


def distance_maps(label: NDArray[np.uint8], spacing_mm: tuple[float, float, float]) -> NDArray[np.float32]:
    """Signed distances (3, z, x, y) in mm to the surface of whole tumour, core and necrosis, negative inside.

    What a mask lacks has the distances of the next outer region.
    """
    maps: list[NDArray[np.float32]] = []
    for region in (label > 0, (label == 1) | (label == 3), label == 1):
        maps.append(_signed(region, spacing_mm) if region.any() or not maps else maps[-1])
    return np.ascontiguousarray(np.stack(maps).transpose(0, 3, 1, 2))


def _signed(region: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> NDArray[np.float32]:
    inside = np.asarray(ndimage.distance_transform_edt(region, spacing_mm), np.float32)
    outside = np.asarray(ndimage.distance_transform_edt(~region, spacing_mm), np.float32)
    half = np.float32(min(spacing_mm) / 2)
    return np.where(region, half - inside, outside - half)


def _wanted(own: TumourMeasurement, asked: Mapping[str, float]) -> dict[str, float]:
    """All columns: those asked for, and what then follows for the others."""
    for name in FOLLOWS:
        if name in asked:
            raise EditFault(name, asked[name], "a given mask has its own; leave the column empty")
    row = own.as_row(COLUMNS)
    row |= {name: asked[name] for name in PLACE if name in asked}
    factors = {name: asked[name] / row[name] for name in SIDES if name in asked}
    made = float(np.prod(list(factors.values())))  # of the volume, by the sides alone
    factor = asked["volume_ml"] / own.volume_ml if "volume_ml" in asked else made
    if not 1 / LARGEST_FACTOR <= factor <= LARGEST_FACTOR:
        least, most = own.volume_ml / LARGEST_FACTOR, own.volume_ml * LARGEST_FACTOR
        raise EditFault("volume_ml", factor * own.volume_ml, f"the mask has {own.volume_ml:.4g} ml, allowed are "
                        f"{least:.4g} to {most:.4g}")  # fmt: skip
    if len(factors) == len(SIDES) and abs(factor / made - 1) > AGREEMENT:
        raise EditFault("volume_ml", asked["volume_ml"], "contradicts its row: with w, h and d the mask has "
                        f"{made * own.volume_ml:.4g} ml")  # fmt: skip
    left = float((factor / made) ** (1 / max(len(SIDES) - len(factors), 1)))
    row |= {name: row[name] * factors.get(name, left) for name in SIDES}
    row["volume_ml"] = factor * own.volume_ml
    row["surface_cm2"] *= factor ** (2 / 3)
    return row | _shares(row, {name: asked[name] for name in SHARE_COLUMNS if name in asked})


def _shares(own: Mapping[str, float], asked: Mapping[str, float]) -> dict[str, float]:
    """Shares of the tissues, those not asked for in their own proportion."""
    if not asked:
        return {}
    rest = 1 - sum(asked.values())
    others = {name: own[name] for name in SHARE_COLUMNS if name not in asked}
    held = sum(others.values())
    if rest > 1e-3 and held == 0:
        name, value = next(iter(asked.items()))
        raise EditFault(name, value, "the mask holds no other tissue; give the shares of all three")
    return dict(asked) | {name: value * max(rest, 0.0) / held if held else 0.0 for name, value in others.items()}
