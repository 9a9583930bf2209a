"""Labels as the coarse distance maps that a mask denoiser makes, and the variation of maps for its training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...engine.conditions.columns import COLUMNS
from ...engine.mask_solver import MAPS

REACH_MM = 20.0  # distances are clipped here on both sides
_MEMBERS = ((1, 2, 3), (1, 3), (1,))  # labels of whole tumour, core, necrosis


def distance_maps(
    label: NDArray[np.uint8], spacing_mm: tuple[float, float, float], coarse: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Signed distances (3, z, x, y) in mm of a label (x, y, z), negative inside, clipped and averaged over blocks.

    Args:
        label: 0 background, 1 NCR, 2 ED, 3 ET.
        spacing_mm: of the label.
        coarse: blocks along x, y, z; divides the label's shape.
    """
    maps = np.full((len(MAPS), *label.shape), REACH_MM, np.float32)
    reach = [int(np.ceil(REACH_MM / s)) + 1 for s in spacing_mm]
    half = float(np.mean(spacing_mm)) / 2  # distances from the border between voxels, not from centre to centre
    for number, members in enumerate(_MEMBERS):
        inside = np.isin(label, members)
        if not inside.any():
            continue
        places = np.nonzero(inside)
        box = tuple(slice(max(0, int(p.min()) - r), int(p.max()) + r) for p, r in zip(places, reach, strict=True))
        here = inside[box]
        outer = np.asarray(ndimage.distance_transform_edt(~here, sampling=spacing_mm))
        inner = np.asarray(ndimage.distance_transform_edt(np.pad(here, 1), sampling=spacing_mm))[1:-1, 1:-1, 1:-1]
        maps[(number, *box)] = np.clip(np.where(here, half - inner, outer - half), -REACH_MM, REACH_MM)
    x, y, z = coarse
    blocks = maps.reshape(3, x, label.shape[0] // x, y, label.shape[1] // y, z, label.shape[2] // z)
    return np.ascontiguousarray(blocks.mean(axis=(2, 4, 6)).transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class MapVariation:
    """How far maps are moved and scaled."""

    volume_ml: tuple[float, float] = (1.0, 300.0)  # of the share that is scaled to a volume drawn log-uniformly
    scaled_share: float = 0.5
    scale: float = 0.06  # deviation of the logarithm of the others' scale
    largest: tuple[float, float] = (0.25, 1.6)  # limits of the scale
    shift_mm: float = 5.0
    border: float = 0.1  # share of the field of view that stays free on each side


def varied_maps(
    maps: NDArray[np.float32],
    row: NDArray[np.float64],
    fov_mm: tuple[float, float, float],
    generator: np.random.Generator,
    variation: MapVariation,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Maps mirrored, scaled about the tumour's centre and moved, and the conditions that they then have.

    Similar figures keep shares and sphericity; volume, surface, box and centre follow from scale and shift.

    Args:
        maps: (3, z, x, y) in mm.
        row: (12,) `COLUMNS` in their units.
        fov_mm: field of view along x, y, z.
        generator: draws.
        variation: how far.
    """
    told: dict[str, float] = dict(zip(COLUMNS, row.tolist(), strict=True))
    centre, sides = (np.array([told[name] for name in names]) for names in ("xyz", "whd"))
    room = (1.0 - 2.0 * variation.border) / sides
    scale = float(min(_scale(told["volume_ml"], generator, variation), max(1.0, room.min())))
    low, high = variation.border + scale * sides / 2, 1.0 - variation.border - scale * sides / 2
    place = centre + generator.normal(0.0, variation.shift_mm, 3) / np.asarray(fov_mm)
    place = np.where(low < high, np.clip(place, low, high), centre)
    offset = centre - place / scale
    along_x, along_y, along_z = (
        _linear((((np.arange(n) + 0.5) / n / scale + start) * n - 0.5), n)
        for n, start in zip(_sides(maps), offset, strict=True)
    )
    moved = np.einsum("mzxy,cz,ax,by->mcab", maps, along_z, along_x, along_y, optimize=True)
    moved = np.where(moved >= 0.98 * REACH_MM, REACH_MM, np.clip(scale * moved, -REACH_MM, REACH_MM)).astype(np.float32)
    told |= {"volume_ml": told["volume_ml"] * scale**3, "surface_cm2": told["surface_cm2"] * scale**2}
    told |= dict(zip("xyzwhd", [*place.tolist(), *(scale * sides).tolist()], strict=True))
    if generator.random() < 0.5:
        moved, told["x"] = moved[:, :, ::-1].copy(), 1.0 - told["x"]
    return moved, np.array([told[name] for name in COLUMNS])


def _linear(at: NDArray[np.float64], size: int) -> NDArray[np.float32]:
    """Linear interpolation of `size` samples at the indices `at`, edges repeated: (len(at), size)."""
    inside = np.clip(at, 0.0, size - 1.0)
    return np.maximum(0.0, 1.0 - np.abs(inside[:, None] - np.arange(size))).astype(np.float32)


def _sides(maps: NDArray[np.float32]) -> tuple[int, int, int]:
    """Sides of maps (3, z, x, y) along x, y, z."""
    return maps.shape[2], maps.shape[3], maps.shape[1]


def _scale(volume_ml: float, generator: np.random.Generator, variation: MapVariation) -> float:
    if generator.random() >= variation.scaled_share:
        return float(np.exp(generator.normal(0.0, variation.scale)))
    low, high = np.log(variation.volume_ml)
    wanted = np.exp(generator.uniform(low, high))
    return float(np.clip((wanted / volume_ml) ** (1 / 3), *variation.largest))
