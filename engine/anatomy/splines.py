"""Smooth functions on a grid, made cheaply from uniform cubic B-splines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

SPLINE_DEVIATION = 0.4793**1.5
"""Of a 3D cubic B-spline whose coefficients are independent standard normals."""


@lru_cache(maxsize=128)
def basis(size: int, spacing: float) -> FloatArray:
    """Weights (size, nodes) of uniform cubic B-splines whose nodes lie `spacing` voxels apart, one before voxel 0."""
    position = np.arange(size) / spacing + 1.0
    nodes = np.arange(node_count(size, spacing))
    distance = np.abs(position[:, None] - nodes[None])
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, inner, outer).astype(np.float32)


def node_count(size: int, spacing: float) -> int:
    """Nodes along an axis of `size` voxels, with one to spare at either end."""
    return int(np.ceil((size - 1) / spacing)) + 3


def expanded(coefficients: FloatArray, bases: Sequence[FloatArray]) -> FloatArray:
    """Splines with coefficients (C, X, Y, Z) at the voxels of three bases; summed in one order on every machine."""
    values = coefficients
    for axis, weights in enumerate(bases, start=1):
        values = np.moveaxis(np.einsum("c...i,vi->c...v", np.moveaxis(values, axis, -1), weights), -1, axis)
    return np.ascontiguousarray(values, np.float32)
