"""How a tumour that is put into a brain pushes the tissue around it aside, within a margin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from .deformation import pushed_outward
from .draw import PUSH

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]

STRENGTH = sum(PUSH) / len(PUSH)
"""Displacement at the core's edge over the core's radius: the middle of what drawn brains have."""


def pushed_places(core: Mask, distance_mm: FloatArray, spacing_mm: Sequence[float], margin_mm: float) -> FloatArray:
    """Where (3, x, y, z), in voxels, the tissue of each voxel lay before; its own place from the margin on.

    Args:
        core: (x, y, z) of what pushes: NCR and ET, of a tumour without them all of it.
        distance_mm: of each voxel from the tumour, 0 inside.
        spacing_mm: of a voxel.
        margin_mm: at which the displacement has come to 0.
    """
    places = np.indices(core.shape, np.float32)
    at = np.argwhere(core)
    if not at.size:
        return places
    sides = np.reshape(spacing_mm, (3, 1, 1, 1)).astype(np.float32)
    centre = at.mean(axis=0).astype(np.float32) * sides[:, 0, 0, 0]
    radius = float((3 * len(at) * np.prod(spacing_mm) / (4 * np.pi)) ** (1 / 3))
    rest = np.clip(1 - distance_mm / np.float32(margin_mm), 0, 1)
    fade = rest * rest * (3 - 2 * rest)
    return (places - pushed_outward(places * sides, centre, radius, STRENGTH) * fade / sides).astype(np.float32)


def taken_from(volumes: NDArray, places: FloatArray) -> FloatArray:
    """Volumes (n, x, y, z) at places (3, x, y, z) in voxels, linearly."""
    taken = [map_coordinates(np.asarray(one, np.float32), places, order=1, mode="nearest") for one in volumes]
    return np.stack(taken).astype(np.float32)
