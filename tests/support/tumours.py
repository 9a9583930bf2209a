"""A round brain on a coarse grid and a tumour of three tissues in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SHAPE, SPACING = (40, 44, 30), (4.0, 4.0, 5.0)
VOXEL_ML = 0.08


def ball(centre: tuple[float, float, float], radius_mm: float) -> NDArray[np.float64]:
    at = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1)
    return np.linalg.norm((at - np.array(centre)) * SPACING, axis=-1) < radius_mm


BRAIN = ball((20, 22, 15), 66)
LABEL = np.select([ball((28, 18, 16), 7), ball((28, 18, 16), 12), ball((27, 18, 16), 22)], [1, 3, 2], 0).astype(
    np.uint8
)
