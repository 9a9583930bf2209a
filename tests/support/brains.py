"""Brains of smooth noise on a coarse grid: each one has an anatomy of its own, so that copies can be told."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SHAPE, SPACING_MM = (32, 32, 16), (6.0, 6.0, 9.6)


def brain(seed: int, modalities: int = 4) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (modality, x, y, z) of an uneven ellipsoid filled with texture, and a tumour of three tissues (x, y, z)."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in SHAPE), indexing="ij")
    sides = np.array([11.0, 13.5, 6.5]) * rng.uniform(0.95, 1.05, 3)
    bump = ndimage.gaussian_filter(rng.normal(size=SHAPE), 3) * 8
    inside = (x / sides[0]) ** 2 + (y / sides[1]) ** 2 + (z / sides[2]) ** 2 + 0.02 * y + bump < 1
    texture = ndimage.gaussian_filter(rng.normal(size=(modalities, *SHAPE)), (0, 1.2, 1.2, 0.8))
    image = np.where(inside, 110 + 45 * texture / texture.std(), 0).clip(0, 255)
    image = np.where(inside, image.clip(20, 255), 0).astype(np.uint8)
    at = rng.uniform(-4, 4, 3) * (1, 1, 0.4)
    far = np.sqrt((x - at[0]) ** 2 + (y - at[1]) ** 2 + (1.6 * (z - at[2])) ** 2)
    label = np.where(inside, np.select([far < 2, far < 3, far < 5], [1, 3, 2], 0), 0).astype(np.uint8)
    return np.where(label > 0, np.minimum(image + 20 * label, 255), image).astype(np.uint8), label
