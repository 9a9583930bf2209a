"""Where an anatomy lies in a field of view: how large, how turned, how sheared, around which place.

Millimetres are counted from the middle of the field along RAS+ axes. Drafts and phantoms are posed alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from .anatomies import SPACING_MM, Tissue, load_anatomy
from .splines import FloatArray

Vector = NDArray[np.float64]

SIZE_MM, SIZE_DEVIATION = np.array([140.0, 171.5, 141.0]), np.array([4.0, 6.0, 4.0])  # of brains in BraTS
CENTRE_MM, CENTRE_DEVIATION = np.array([1.0, -7.0, -3.0]), np.array([1.5, 3.5, 3.5])
MARGIN_MM = 6.0  # that a pose leaves to the edges of the field, where there is room
ROTATION_DEVIATION = np.array([4.0, 2.5, 2.5])  # degrees about x, y, z
SHEAR_DEVIATION = 0.02

POSE_NUMBERS = 14
"""Normals that a pose is drawn from."""


def size_of(anatomy: int) -> Vector:
    """(3,) mm of the box around a brain."""
    return np.array(load_anatomy(anatomy).shape) * SPACING_MM


def scale_to(wanted_mm: Vector, size_mm: Vector) -> Vector:
    """Factors (3,) that bring a brain to the wanted volume and seven tenths of the way to the wanted proportions."""
    stretch = np.log(wanted_mm / size_mm)
    return np.exp(0.7 * stretch + 0.3 * stretch.mean())


def matrix_of(scale: Vector, degrees: NDArray[Any], shears: Vector) -> Vector:
    """(3, 3) from mm to voxels of an anatomy that is scaled, turned about x, y, z, and sheared (xy, xz, yz)."""
    from scipy.spatial.transform import Rotation  # slow to load, and needed only where a brain is drawn

    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = shears
    return np.diag(1 / (scale * SPACING_MM)) @ shear @ turn


def centre_within(wanted_mm: Vector, brain_mm: Vector, field_mm: Vector, margin_mm: float) -> Vector:
    """(3,) mm, the place nearest to the wanted one that leaves a margin around a brain; the middle without room."""
    room = np.maximum((field_mm - brain_mm) / 2 - margin_mm, 0)
    return np.clip(wanted_mm, -room, room)


@dataclass(frozen=True)
class Pose:
    """Where an anatomy lies."""

    anatomy: int
    mirrored: bool
    matrix: Vector  # (3, 3) from mm about `centre` to voxels about the middle of the anatomy
    centre: Vector  # (3,) mm

    @classmethod
    def of(cls, numbers: FloatArray, anatomies: Sequence[int], fov_mm: Vector) -> Pose:
        """That of `POSE_NUMBERS` normals: one of `anatomies`, its size and place as in BraTS, inside the field."""
        n = numbers.astype(np.float64)
        anatomy = anatomies[min(int(ndtr(n[0]) * len(anatomies)), len(anatomies) - 1)]
        size = size_of(anatomy)
        scale = scale_to(SIZE_MM + SIZE_DEVIATION * n[2:5], size)
        matrix = matrix_of(scale, ROTATION_DEVIATION * n[5:8], SHEAR_DEVIATION * n[8:11])
        centre = centre_within(CENTRE_MM + CENTRE_DEVIATION * n[11:14], scale * size, fov_mm, MARGIN_MM)
        return cls(anatomy, bool(n[1] < 0), matrix, centre)

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
