"""A brain around a tumour: one of the anatomies posed so that the tumour lies in it, deformed, and pushed aside.

Millimetres are counted from the middle of the field along RAS+ axes. A draw is a function of its normals alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, maximum_filter, uniform_filter1d
from scipy.special import ndtr

from ..blocks import blur_reach, blurred_in, bounding_box
from .anatomies import SPACING_MM, TRAINING, Tissue
from .appearance import appearance_numbers, as_scans_show
from .deformation import WARP, against_slope, flow, followed, pushed_outward
from .pose import POSE_NUMBERS, Pose
from .splines import SPLINE_DEVIATION, FloatArray, basis, expanded, node_count

CANDIDATES = 16
"""Poses that are drawn; the one that holds most of the tumour is taken."""

PUSH = (0.05, 0.45)  # displacement at the core's edge over the core's radius, least and most
WIDENING_MM = (0.8, 1.5, -1.0, 4.0)  # of the ventricles: mean and deviation, least and most
_SHAPE_NUMBERS = 2
_NODE_MM = 6.0
_LOOKED_AT = 4096  # voxels of a tumour that a pose is judged by

SHARES = {
    Tissue.OUTSIDE: (0.0, 0.0, 0.0),
    Tissue.WHITE: (1.0, 0.0, 0.0),
    Tissue.CORTEX: (0.0, 1.0, 0.0),
    Tissue.CSF: (0.0, 0.2, 0.8),
    Tissue.VENTRICLE: (0.0, 0.0, 1.0),
    Tissue.CEREBELLAR_WHITE: (0.9, 0.1, 0.0),
    Tissue.CEREBELLAR_CORTEX: (0.1, 0.9, 0.0),
    Tissue.THALAMUS: (0.55, 0.45, 0.0),
    Tissue.CAUDATE: (0.1, 0.9, 0.0),
    Tissue.PUTAMEN: (0.25, 0.75, 0.0),
    Tissue.PALLIDUM: (0.75, 0.25, 0.0),
    Tissue.STEM: (0.8, 0.2, 0.0),
    Tissue.HIPPOCAMPUS: (0.0, 1.0, 0.0),
    Tissue.LESION: (0.5, 0.5, 0.0),
    Tissue.CHOROID: (0.0, 0.5, 0.5),
}
"""Of white matter, grey matter and fluid, as a scan shows them, in each tissue of an anatomy."""

_VENTRICLES = np.isin(list(Tissue), (Tissue.VENTRICLE, Tissue.CHOROID))
_CUBE = 4  # voxels
_LEVELS = np.array([SHARES[tissue] for tissue in Tissue], np.float32)


@dataclass(frozen=True)
class Field:
    """The grid that a brain is drawn on."""

    shape: tuple[int, int, int]  # x, y, z
    spacing_mm: tuple[float, float, float]

    @property
    def numbers(self) -> int:
        """Normals that a draw takes."""
        warps = 3 * sum(prod(self._coarse(spacing)) for spacing, _ in WARP)
        return CANDIDATES * POSE_NUMBERS + warps + _SHAPE_NUMBERS + appearance_numbers(self.shape, self.spacing_mm)

    @property
    def steps(self) -> tuple[float, float, float]:
        """Voxels from node to node."""
        x, y, z = (_NODE_MM / mm for mm in self.spacing_mm)
        return x, y, z

    @property
    def nodes(self) -> tuple[int, int, int]:
        """How many along each axis."""
        x, y, z = map(node_count, self.shape, self.steps)
        return x, y, z

    def node_positions(self) -> FloatArray:
        """(3, X, Y, Z) mm."""
        return _mesh([(np.arange(n) - 1) * s for n, s in zip(self.nodes, self.steps, strict=True)], self)

    def voxel_positions(self) -> FloatArray:
        """(3, x, y, z) mm."""
        return _mesh([np.arange(n) for n in self.shape], self)

    def smooth(self, numbers: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The velocity (3, X, Y, Z) in mm at the nodes that normals give, and the normals that are left."""
        velocity = np.zeros((3, *self.nodes), np.float32)
        for spacing, deviation in WARP:
            coarse = self._coarse(spacing)
            taken, numbers = np.split(numbers, [3 * prod(coarse)])
            bases = [basis(size, spacing / _NODE_MM) for size in self.nodes]
            velocity += np.float32(deviation / SPLINE_DEVIATION) * expanded(taken.reshape(3, *coarse), bases)
        return velocity, numbers

    def _coarse(self, spacing: float) -> tuple[int, int, int]:
        x, y, z = (node_count(size, spacing / _NODE_MM) for size in self.nodes)
        return x, y, z


def _mesh(axes: Sequence[NDArray[Any]], field: Field) -> FloatArray:
    ends = zip(axes, field.shape, field.spacing_mm, strict=True)
    return np.stack(np.meshgrid(*(np.float32(mm) * (a - (n - 1) / 2) for a, n, mm in ends), indexing="ij")).astype(
        np.float32
    )


def drawn_shares(
    normals: FloatArray, label: NDArray[np.uint8], field: Field, anatomies: Sequence[int] = TRAINING
) -> FloatArray:
    """Shares of white matter, grey matter and fluid (3, x, y, z), 0 outside the brain, around a tumour.

    Args:
        normals: (`field.numbers`,) standard normals.
        label: (x, y, z), 0 where there is no tumour; its core is 1 and 3.
        field: the grid.
        anatomies: which may be drawn.
    """
    poses, rest = np.split(normals, [CANDIDATES * POSE_NUMBERS])
    fov_mm = np.array(field.shape) * np.array(field.spacing_mm)
    drawn = [Pose.of(numbers, anatomies, fov_mm) for numbers in poses.reshape(CANDIDATES, -1)]
    points = _points(label > 0, field)
    pose = max(drawn, key=lambda one: one.held(points)) if points.size else drawn[0]
    velocity, rest = field.smooth(rest)
    (push, widening), rest = np.split(rest, [_SHAPE_NUMBERS])
    mean, deviation, least, most = WIDENING_MM
    moved = _widened(pose, flow(velocity, _displaced), field, float(np.clip(mean + deviation * widening, least, most)))
    strength = PUSH[0] + (PUSH[1] - PUSH[0]) * float(ndtr(push))
    outward = _outward((label == 1) | (label == 3), field, strength)
    if outward is not None:
        moved = followed(moved, -outward, _displaced)
    return as_scans_show(_sampled(pose, moved, field), field.spacing_mm, rest)


def _points(mask: NDArray[np.bool_], field: Field) -> FloatArray:
    """(3, n) mm of the voxels of a mask, at most `_LOOKED_AT` of them."""
    at = np.argwhere(mask)
    at = at[:: len(at) // _LOOKED_AT + 1]
    return ((at - (np.array(field.shape) - 1) / 2) * np.array(field.spacing_mm)).T.astype(np.float32)


def _widened(pose: Pose, displacement: FloatArray, field: Field, millimetres: float) -> FloatArray:
    """A displacement (3, X, Y, Z) in mm at the nodes after the ventricles' walls were moved outward."""
    tissues = pose.tissues()
    at = pose.voxels(field.node_positions() + displacement)
    blurred, first = _blurred(_VENTRICLES[tissues], _NODE_MM / SPACING_MM)
    seen = map_coordinates(blurred, at.astype(np.float64) - first, order=1, mode="constant")
    return followed(displacement, against_slope(seen, millimetres), _displaced).astype(np.float32)


def _blurred(mask: NDArray[np.bool_], sigma: float) -> tuple[FloatArray, NDArray[np.int64]]:
    """A Gaussian filter's result in the box where it is not 0, and the box's first voxel (3, 1, 1, 1)."""
    reach = blur_reach(sigma) + 1  # a place beyond the last voxel that is not 0 lies between it and a 0
    box = bounding_box(mask)
    x, y, z = (slice(max(0, s.start - reach), min(n, s.stop + reach)) for s, n in zip(box, mask.shape, strict=True))
    first = np.array([x.start, y.start, z.start], np.int64).reshape(3, 1, 1, 1)
    return blurred_in((x, y, z), mask, (sigma, sigma, sigma)), first


def _outward(core: NDArray[np.bool_], field: Field, push: float) -> FloatArray | None:
    """How far tissue is moved outward, (3, X, Y, Z) mm at the nodes: most at the core's edge, less beyond it."""
    voxels = int(core.sum())
    if voxels == 0:
        return None
    radius = (voxels * prod(field.spacing_mm) * 3 / (4 * np.pi)) ** (1 / 3)
    centre = _points(core, field).mean(axis=1)
    return pushed_outward(field.node_positions(), centre, radius, push).astype(np.float32)


def _displaced(at_nodes: FloatArray, by: FloatArray) -> FloatArray:
    """A field (3, X, Y, Z) of the nodes displaced `by` (3, X, Y, Z) mm."""
    at = np.indices(by.shape[1:], np.float32) + by / np.float32(_NODE_MM)
    return np.stack([map_coordinates(part, at, order=1, mode="nearest") for part in at_nodes]).astype(np.float32)


def _sampled(pose: Pose, displacement: FloatArray, field: Field) -> FloatArray:
    bases = [basis(size, step) for size, step in zip(field.shape, field.steps, strict=True)]
    at = pose.voxels(field.voxel_positions() + expanded(displacement, bases))
    tissues = pose.tissues()
    widths = [max(1, round(mm / SPACING_MM)) for mm in field.spacing_mm]
    near = np.flatnonzero(_near_tissue(tissues, at, 1 + max(widths) // 2))
    places = at.reshape(3, -1).take(near, axis=1)
    found = np.empty((3, places.shape[1]), np.float32)
    for kind in range(3):
        fine = _LEVELS[:, kind][tissues]
        for axis, width in enumerate(widths):
            fine = uniform_filter1d(fine, width, axis=axis) if width > 1 else fine
        map_coordinates(fine, places, output=found[kind], order=1, mode="constant")
    whole = found.sum(axis=0)
    found /= np.maximum(whole, 0.5)
    found[:, whole <= 0.5] = 0
    shares = np.zeros((3, prod(field.shape)), np.float32)
    shares[:, near] = found
    return shares.reshape(3, *field.shape)


def _near_tissue(tissues: NDArray[np.uint8], at: FloatArray, reach: int) -> NDArray[np.bool_]:
    """Whether places (3, x, y, z) in voxels may lie within `reach` voxels of a tissue; judged by cubes of `_CUBE`."""
    around = -(-reach // _CUBE)
    margin = (around + 1) * _CUBE  # so that the outermost cubes hold nothing, to which places beyond them are counted
    padded = np.pad(tissues > 0, np.array([(margin, margin + -n % _CUBE) for n in tissues.shape]))
    x, y, z = (n // _CUBE for n in padded.shape)
    cubes = padded.reshape(x, _CUBE, y, _CUBE, z, _CUBE).any(axis=(1, 3, 5))
    cubes = np.asarray(maximum_filter(cubes, 2 * around + 1, mode="constant"), np.bool_)
    number = np.zeros(at.shape[1:], np.int32)
    for part, size in zip(at, cubes.shape, strict=True):
        cube = (part + np.float32(margin)) * np.float32(1 / _CUBE)
        number *= size
        number += np.clip(cube, 0, size - 1, out=cube).astype(np.int32)
    return cubes.ravel()[number]
