"""Smooth random fields and deformations on the BraTS grid, made cheaply from cubic B-splines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ...engine.anatomy.splines import SPLINE_DEVIATION, basis, node_count

FloatArray = NDArray[np.float32]
Box = tuple[slice, slice, slice]

SHAPE = (240, 240, 155)  # voxels of 1 mm along x, y, z (RAS), the grid of BraTS
FIELD_MM = np.array([192.0, 192.0, 153.6])  # of the default grid, on the middle of BraTS's; places are shares of it
NODE_SPACING = 5.0  # mm between the nodes of a deformation


def node_positions(spacing: float = NODE_SPACING) -> FloatArray:
    """Voxel coordinates (3, X, Y, Z) of the nodes."""
    axes = [(np.arange(node_count(size, spacing)) - 1) * spacing for size in SHAPE]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


def expand(coefficients: FloatArray, box: Box, spacing: float = NODE_SPACING) -> FloatArray:
    """Values in the voxels of `box` of the spline with these coefficients (X, Y, Z); shape that of the box."""
    x, y, z = (basis(size, spacing)[part] for size, part in zip(SHAPE, box, strict=True))
    along_z = coefficients @ z.T
    along_y = np.matmul(y, along_z)
    return (x @ along_y.reshape(len(along_y), -1)).reshape(len(x), len(y), len(z))


def smooth_noise(rng: np.random.Generator, box: Box, spacing: float) -> FloatArray:
    """Standard normal noise in `box` whose structures are about 1.5 `spacing` mm wide.

    The draw covers the whole grid, so that the values of a voxel do not depend on the box.
    """
    shape = tuple(node_count(size, spacing) for size in SHAPE)
    return expand(rng.standard_normal(shape, dtype=np.float32) / np.float32(SPLINE_DEVIATION), box, spacing)


def spline_noise(rng: np.random.Generator, shape: tuple[int, int, int], spacing: Sequence[float]) -> FloatArray:
    """Standard normal noise of any shape; `spacing` of its nodes in voxels along x, y, z."""
    bases = [basis(size, step) for size, step in zip(shape, spacing, strict=True)]
    coefficients = rng.standard_normal([basis.shape[1] for basis in bases], dtype=np.float32)
    return np.einsum("xi,yj,zk,ijk->xyz", *bases, coefficients / np.float32(SPLINE_DEVIATION), optimize=True)


def node_noise(rng: np.random.Generator, spacing: float) -> FloatArray:
    """Standard normal noise at the nodes of a deformation, structures about 1.5 `spacing` mm wide."""
    shape = tuple(node_count(size, NODE_SPACING) for size in SHAPE)
    ratio = spacing / NODE_SPACING
    coarse = tuple(node_count(size, ratio) for size in shape)
    values = rng.standard_normal(coarse, dtype=np.float32) / np.float32(SPLINE_DEVIATION)
    for axis, size in enumerate(shape):
        values = np.moveaxis(np.tensordot(basis(size, ratio), values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values, dtype=np.float32)


def sample(volumes: FloatArray, coordinates: FloatArray) -> FloatArray:
    """Trilinear values (C, ...) of maps (C, X, Y, Z) at voxel coordinates (3, ...), the nearest beyond the edge."""
    grid = np.empty((*coordinates.shape[1:], 3), np.float32)
    for axis, size in enumerate(volumes.shape[1:]):
        grid[..., 2 - axis] = coordinates[axis] * np.float32(2 / (size - 1)) - 1
    values = torch.nn.functional.grid_sample(
        torch.from_numpy(volumes)[None],
        torch.from_numpy(grid.reshape(1, 1, 1, -1, 3)),
        padding_mode="border",
        align_corners=True,
    )
    return values.numpy().reshape(len(volumes), *coordinates.shape[1:])


def displace(field: FloatArray, by: FloatArray) -> FloatArray:
    """`field` (3, X, Y, Z) at the nodes displaced `by` (3, X, Y, Z) mm; plus `by`, it is one map after the other."""
    index = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in by.shape[1:]), indexing="ij"))
    return sample(field, (index + by / np.float32(NODE_SPACING)).astype(np.float32, copy=False))
