"""Labels as the coarse distance maps that a mask denoiser makes, and the variation of masks for its training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ...engine.sampling.mask_solver import MAPS

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
class MaskVariation:
    """How far varied masks go."""

    volume_ml: tuple[float, float] = (1.0, 300.0)  # of those that are scaled to a volume drawn log-uniformly
    scaled_share: float = 0.5  # of the variants; the others keep their size within a fifth
    shift_mm: float = 6.0
    turn: float = 0.15  # radians about each axis
    warps_mm: tuple[tuple[float, float], ...] = ((30.0, 3.0), (12.0, 1.2))  # scale and amplitude of smooth fields


def varied_mask(
    label: NDArray[np.uint8],
    spacing_mm: tuple[float, float, float],
    brain: NDArray[np.bool_],
    generator: np.random.Generator,
    variation: MaskVariation,
) -> NDArray[np.uint8]:
    """A label (x, y, z) mirrored, turned, moved, scaled and warped about its centre, cut to the brain; else itself.

    The label comes back as it was where it is empty or the brain would keep less than four fifths of the variant.
    """
    voxels = np.argwhere(label > 0)
    if not len(voxels):
        return label
    spacing = np.asarray(spacing_mm)
    centre = voxels.mean(axis=0) * spacing
    scale = _scale(len(voxels) * spacing.prod() / 1000, generator, variation)
    turn = _rotation(generator.normal(0.0, variation.turn, 3)) / scale
    place = centre + generator.normal(0.0, variation.shift_mm, 3)
    reach = np.abs(voxels * spacing - centre).max() * scale + 12.0
    low = np.maximum(0, np.floor((place - reach) / spacing)).astype(int)
    high = np.minimum(label.shape, np.ceil((place + reach) / spacing) + 1).astype(int)
    axes = [np.arange(a, b) * s for a, b, s in zip(low, high, spacing, strict=True)]
    at = np.stack(np.meshgrid(*axes, indexing="ij"))
    for field_mm, amplitude in variation.warps_mm:
        at = at + amplitude * np.stack([_smooth(at.shape[1:], field_mm / spacing, generator) for _ in range(3)])
    back = np.einsum("ij,jxyz->ixyz", turn, at - place[:, None, None, None]) + centre[:, None, None, None]
    index = back / spacing[:, None, None, None]
    chances = [ndimage.map_coordinates((label == k).astype(np.float32), index, order=1) for k in (1, 2, 3)]
    tissue = np.argmax(chances, axis=0).astype(np.uint8) + 1
    window = tuple(slice(a, b) for a, b in zip(low.tolist(), high.tolist(), strict=True))
    inside = np.sum(chances, axis=0) >= 0.5
    kept = inside & brain[window]
    if not inside.any() or np.count_nonzero(kept) < 0.8 * np.count_nonzero(inside):
        return label
    out = np.zeros_like(label)
    out[window] = np.where(kept, tissue, 0)
    return out[::-1].copy() if generator.random() < 0.5 else out


def _scale(volume_ml: float, generator: np.random.Generator, variation: MaskVariation) -> float:
    low, high = np.log(variation.volume_ml)
    wanted = np.exp(generator.uniform(low, high))
    other = float(np.exp(generator.normal(0.0, 0.06)))
    return (
        float(np.clip((wanted / volume_ml) ** (1 / 3), 0.3, 1.8))
        if generator.random() < variation.scaled_share
        else other
    )


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return about_x @ about_y @ np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])


def _smooth(shape: tuple[int, ...], voxels: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float32]:
    """Smooth noise of unit deviation, made coarse and interpolated."""
    step = np.maximum(1.0, 0.7 * voxels)
    coarse = tuple(int(np.ceil(n / s)) + 3 for n, s in zip(shape, step, strict=True))
    noise = ndimage.gaussian_filter(generator.standard_normal(coarse).astype(np.float32), voxels / step, mode="wrap")
    grid = np.meshgrid(*[np.arange(n) / s + 1 for n, s in zip(shape, step, strict=True)], indexing="ij")
    return np.asarray(ndimage.map_coordinates(noise / (noise.std() + 1e-6), np.stack(grid), order=1), np.float32)
