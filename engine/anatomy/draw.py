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
from scipy.ndimage import gaussian_filter, map_coordinates, uniform_filter1d
from scipy.spatial.transform import Rotation
from scipy.special import ndtr

from .anatomies import SPACING_MM, TRAINING, Tissue, load_anatomy
from .appearance import appearance_numbers, as_scans_show
from .splines import SPLINE_DEVIATION, FloatArray, basis, expanded, node_count

CANDIDATES = 6
"""Poses that are drawn; the one that holds most of the tumour is taken."""

SIZE_MM, SIZE_DEVIATION = np.array([140.0, 171.5, 141.0]), np.array([4.0, 6.0, 4.0])  # of brains in BraTS
CENTRE_MM, CENTRE_DEVIATION = np.array([1.0, -7.0, -3.0]), np.array([1.5, 3.5, 3.5])
MARGIN_MM = 6.0  # that a pose leaves to the edges of the field, where there is room
ROTATION_DEVIATION = np.array([4.0, 2.5, 2.5])  # degrees about x, y, z
SHEAR_DEVIATION = 0.02
WARP = ((44.0, 2.6), (18.0, 1.2))  # (spacing mm, deviation mm) of the velocity: structures of 30 and 12 mm
PUSH = (0.05, 0.45)  # displacement at the core's edge over the core's radius, least and most
WIDENING_MM = (0.8, 1.5, -1.0, 4.0)  # of the ventricles: mean and deviation, least and most
_POSE_NUMBERS, _SHAPE_NUMBERS = 14, 2
_NODE_MM = 6.0
_LOOKED_AT = 4096  # voxels of a tumour that a pose is judged by
_SQUARINGS = 3

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
        return CANDIDATES * _POSE_NUMBERS + warps + _SHAPE_NUMBERS + appearance_numbers(self.shape, self.spacing_mm)

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


@dataclass(frozen=True)
class Pose:
    """Where an anatomy lies."""

    anatomy: int
    mirrored: bool
    matrix: NDArray[np.float64]  # (3, 3) from mm about `centre` to voxels about the middle of the anatomy
    centre: NDArray[np.float64]  # (3,) mm

    @classmethod
    def of(cls, numbers: FloatArray, anatomies: Sequence[int], fov_mm: NDArray[np.float64]) -> Pose:
        """That of `_POSE_NUMBERS` normals: one of `anatomies`, its size and place as in BraTS, inside the field."""
        n = numbers.astype(np.float64)
        anatomy = anatomies[min(int(ndtr(n[0]) * len(anatomies)), len(anatomies) - 1)]
        size = np.array(load_anatomy(anatomy).shape) * SPACING_MM
        stretch = np.log((SIZE_MM + SIZE_DEVIATION * n[2:5]) / size)
        scale = np.exp(0.7 * stretch + 0.3 * stretch.mean())
        turn = Rotation.from_euler("xyz", ROTATION_DEVIATION * n[5:8], degrees=True).as_matrix()
        shear = np.eye(3)
        shear[np.triu_indices(3, 1)] = SHEAR_DEVIATION * n[8:11]
        room = np.maximum((fov_mm - scale * size) / 2 - MARGIN_MM, 0)
        centre = np.clip(CENTRE_MM + CENTRE_DEVIATION * n[11:14], -room, room)
        return cls(anatomy, bool(n[1] < 0), np.diag(1 / (scale * SPACING_MM)) @ shear @ turn, centre)

    def tissues(self) -> NDArray[np.uint8]:
        """The anatomy as it lies."""
        found = load_anatomy(self.anatomy)
        return found[::-1] if self.mirrored else found

    def voxels(self, positions: FloatArray) -> FloatArray:
        """Positions (3, ...) in mm as voxels of `tissues()`."""
        middle = (np.array(load_anatomy(self.anatomy).shape) - 1) / 2
        offset = (middle - self.matrix @ self.centre).astype(np.float32)
        at = np.einsum("ij,j...->i...", self.matrix.astype(np.float32), positions)
        return at + offset.reshape(3, *[1] * (positions.ndim - 1))

    def held(self, positions: FloatArray) -> float:
        """Share of points (3, n) in mm that lie in solid tissue of the brain."""
        tissues = self.tissues()
        at = np.rint(self.voxels(positions)).astype(np.int64)
        inside = ((at >= 0) & (at < np.array(tissues.shape)[:, None])).all(axis=0)
        found = tissues[tuple(np.where(inside, at, 0))]
        solid = ~np.isin(found, (Tissue.OUTSIDE, Tissue.CSF, Tissue.VENTRICLE, Tissue.CHOROID))
        return float((inside & solid).mean())


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
    poses, rest = np.split(normals, [CANDIDATES * _POSE_NUMBERS])
    fov_mm = np.array(field.shape) * np.array(field.spacing_mm)
    drawn = [Pose.of(numbers, anatomies, fov_mm) for numbers in poses.reshape(CANDIDATES, -1)]
    points = _points(label > 0, field)
    pose = max(drawn, key=lambda one: one.held(points)) if points.size else drawn[0]
    velocity, rest = field.smooth(rest)
    (push, widening), rest = np.split(rest, [_SHAPE_NUMBERS])
    mean, deviation, least, most = WIDENING_MM
    moved = _widened(pose, _flow(velocity), field, float(np.clip(mean + deviation * widening, least, most)))
    strength = PUSH[0] + (PUSH[1] - PUSH[0]) * float(ndtr(push))
    outward = _outward((label == 1) | (label == 3), field, strength)
    if outward is not None:
        moved = _displaced(moved, -outward) - outward
    return as_scans_show(_sampled(pose, moved, field), field.spacing_mm, rest)


def _points(mask: NDArray[np.bool_], field: Field) -> FloatArray:
    """(3, n) mm of the voxels of a mask, at most `_LOOKED_AT` of them."""
    at = np.argwhere(mask)
    at = at[:: len(at) // _LOOKED_AT + 1]
    return ((at - (np.array(field.shape) - 1) / 2) * np.array(field.spacing_mm)).T.astype(np.float32)


def _widened(pose: Pose, displacement: FloatArray, field: Field, millimetres: float) -> FloatArray:
    """A displacement (3, X, Y, Z) in mm at the nodes after the ventricles' walls were moved outward."""
    tissues = pose.tissues()
    inside = np.isin(tissues, (Tissue.VENTRICLE, Tissue.CHOROID)).astype(np.float32)
    at = pose.voxels(field.node_positions() + displacement)
    seen = map_coordinates(gaussian_filter(inside, _NODE_MM / SPACING_MM), at, order=1, mode="constant")
    slope = np.stack([np.gradient(seen, axis=axis) for axis in range(3)]).astype(np.float32)
    inward = slope * np.float32(millimetres / max(float(np.sqrt(np.square(slope).sum(axis=0)).max()), 1e-6))
    return (_displaced(displacement, inward) + inward).astype(np.float32)


def _outward(core: NDArray[np.bool_], field: Field, push: float) -> FloatArray | None:
    """How far tissue is moved outward, (3, X, Y, Z) mm at the nodes: most at the core's edge, less beyond it."""
    voxels = int(core.sum())
    if voxels == 0:
        return None
    radius = (voxels * prod(field.spacing_mm) * 3 / (4 * np.pi)) ** (1 / 3)
    away = field.node_positions() - _points(core, field).mean(axis=1)[:, None, None, None]
    distance = np.sqrt(np.square(away).sum(axis=0)) + np.float32(1e-3)
    ratio = distance / np.float32(radius)
    size = push * radius * np.where(ratio < 1, ratio, np.exp((1 - ratio) / 1.6))
    return (away / distance * size).astype(np.float32)


def _flow(velocity: FloatArray) -> FloatArray:
    """Displacement (3, X, Y, Z) in mm of the flow of a stationary velocity, by scaling and squaring.

    Source: Arsigny et al., "A Log-Euclidean Framework for Statistics on Diffeomorphisms", MICCAI 2006.
    """
    flow = velocity / np.float32(2**_SQUARINGS)
    for _ in range(_SQUARINGS):
        flow = flow + _displaced(flow, flow)
    return flow


def _displaced(at_nodes: FloatArray, by: FloatArray) -> FloatArray:
    """A field (3, X, Y, Z) of the nodes displaced `by` (3, X, Y, Z) mm."""
    at = np.indices(by.shape[1:], np.float32) + by / np.float32(_NODE_MM)
    return np.stack([map_coordinates(part, at, order=1, mode="nearest") for part in at_nodes]).astype(np.float32)


def _sampled(pose: Pose, displacement: FloatArray, field: Field) -> FloatArray:
    bases = [basis(size, step) for size, step in zip(field.shape, field.steps, strict=True)]
    at = pose.voxels(field.voxel_positions() + expanded(displacement, bases))
    tissues = pose.tissues()
    widths = [max(1, round(mm / SPACING_MM)) for mm in field.spacing_mm]
    shares = np.empty((3, *field.shape), np.float32)
    for kind in range(3):
        fine = _LEVELS[:, kind][tissues]
        for axis, width in enumerate(widths):
            fine = uniform_filter1d(fine, width, axis=axis) if width > 1 else fine
        shares[kind] = map_coordinates(fine, at, order=1, mode="constant")
    whole = shares.sum(axis=0)
    return np.where(whole > 0.5, shares / np.maximum(whole, 0.5), 0).astype(np.float32)
