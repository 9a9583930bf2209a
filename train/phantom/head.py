"""An individual head: one of the anatomies posed, scaled, warped and pushed aside, and what its voxels hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...engine.anatomy.anatomies import SPACING_MM, Tissue, load_anatomy
from ...engine.anatomy.deformation import WARP, against_slope, flow, followed
from ...engine.anatomy.pose import (
    CENTRE_DEVIATION,
    CENTRE_MM,
    ROTATION_DEVIATION,
    SHEAR_DEVIATION,
    SIZE_DEVIATION,
    centre_within,
    matrix_of,
    scale_to,
    size_of,
)
from .fields import (
    FIELD_MM,
    NODE_SPACING,
    SHAPE,
    Box,
    FloatArray,
    displace,
    expand,
    node_noise,
    node_positions,
    sample,
    smooth_noise,
)
from .regions import blurred, depth_of, largest_piece

_SIZE_MM = np.array([143.0, 175.0, 144.0])  # of brains in BraTS
_MARGIN_MM = 4.0  # that the brain leaves to the edges of the default grid
_WIDENING_MM = (0.5, 2.0, -1.5, 6.0)  # of the ventricles: mean and deviation, least and most
_COARSE = 2  # voxels of an anatomy in one of the maps that plans are made on
_FIELD_CENTRE = (np.array(SHAPE) - 1) / 2
_COMMISSURE_MM = np.array([0.0, -18.0, 6.0])  # middle of a brain's box in coordinates like MNI's


@dataclass(frozen=True)
class Head:
    """A deformed anatomy at the nodes of `fields.node_positions`."""

    anatomy: int
    mirrored: bool
    matrix: NDArray[np.float32]  # (3, 3) from millimetres of the head to voxels of the anatomy
    centre: NDArray[np.float32]  # (3,) voxel of the head on which the middle of the anatomy lies
    displacement: FloatArray  # (3, X, Y, Z) mm, applied in head space before the matrix
    maps: FloatArray  # (4, X, Y, Z): depth below the brain's surface in mm, white, grey, ventricle (0..1)

    @property
    def depth(self) -> FloatArray:
        """(X, Y, Z) mm below the brain's surface."""
        return self.maps[0]


@dataclass(frozen=True)
class Voxels:
    """What the voxels of `box` hold. Flat arrays have one number a voxel of the brain, in the order of `brain`."""

    box: Box
    brain: NDArray[np.bool_]  # the box's shape, one piece
    means: FloatArray  # (4, voxels) signal of t1 t1ce t2 flair before vessels, tumour and scanner
    csf: FloatArray  # (voxels,) share of outer fluid
    ventricle: FloatArray
    white: FloatArray
    choroid: FloatArray
    cover: FloatArray  # 1 deep in the brain, about 1/2 at its surface
    caps: FloatArray  # 0..1 near the ventricles
    place: FloatArray  # (3, voxels) mm from the anterior commissure, roughly

    def volume(self, values: FloatArray) -> FloatArray:
        """Flat `values` as an array of the box's shape, 0 outside the brain."""
        filled = np.zeros(self.brain.shape, np.float32)
        filled[self.brain] = values
        return filled


def draw_head(rng: np.random.Generator, anatomy: int) -> Head:
    """Brain `anatomy` in a random pose, size and shape, mirrored or not."""
    size = size_of(anatomy)
    scale = scale_to(rng.normal(_SIZE_MM, SIZE_DEVIATION), size)
    degrees = rng.normal(0, ROTATION_DEVIATION)
    shears = rng.normal(0, SHEAR_DEVIATION, (3, 3))[np.triu_indices(3, 1)]
    matrix = matrix_of(scale, degrees, shears).astype(np.float32)
    shift = centre_within(rng.normal(CENTRE_MM, CENTRE_DEVIATION), scale * size, FIELD_MM, _MARGIN_MM)
    centre = (_FIELD_CENTRE + shift).astype(np.float32)
    mirrored = bool(rng.random() < 0.5)
    velocity = np.stack([sum(deviation * node_noise(rng, spacing) for spacing, deviation in WARP) for _ in range(3)])
    head = _located(anatomy, mirrored, matrix, centre, flow(velocity.astype(np.float32), displace))
    mean, deviation, least, most = _WIDENING_MM
    return _widen_ventricles(head, float(np.clip(rng.normal(mean, deviation), least, most)))


def push_aside(head: Head, outward: FloatArray) -> Head:
    """`head` after its tissue was moved by `outward` (3, X, Y, Z) mm, given at the nodes in the moved head."""
    moved = followed(head.displacement, -outward, displace)
    return _located(head.anatomy, head.mirrored, head.matrix, head.centre, moved)


def _widen_ventricles(head: Head, millimetres: float) -> Head:
    inward = against_slope(blurred(head.maps[3], 1.0), millimetres)
    moved = followed(head.displacement, inward, displace)
    return _located(head.anatomy, head.mirrored, head.matrix, head.centre, moved)


def _located(anatomy: int, mirrored: bool, matrix: FloatArray, centre: FloatArray, displacement: FloatArray) -> Head:
    coarse = _coarse_maps(anatomy)
    middle = _middle(load_anatomy(anatomy))
    at = _to_anatomy(matrix, centre, middle, node_positions() + displacement)
    maps = sample(coarse[:, ::-1].copy() if mirrored else coarse, (at - (_COARSE - 1) / 2) / np.float32(_COARSE))
    return Head(anatomy, mirrored, matrix, centre, displacement, maps)


def _to_anatomy(matrix: FloatArray, centre: FloatArray, middle: FloatArray, position: FloatArray) -> FloatArray:
    flat = np.asarray(matrix @ position.reshape(3, -1) + (middle - matrix @ centre)[:, None], dtype=np.float32)
    return flat.reshape(position.shape)


def _middle(tissues: NDArray[np.uint8]) -> FloatArray:
    return ((np.array(tissues.shape) - 1) / 2).astype(np.float32)


@lru_cache(maxsize=20)
def _coarse_maps(anatomy: int) -> FloatArray:
    """Depth in mm, shares of white, grey and ventricle over blocks of `_COARSE` voxels: (4, X, Y, Z)."""
    tissues = load_anatomy(anatomy)
    tissues = np.pad(tissues, np.array([(0, -size % _COARSE) for size in tissues.shape]))
    x, y, z = (size // _COARSE for size in tissues.shape)
    blocks = tissues.reshape(x, _COARSE, y, _COARSE, z, _COARSE).transpose(0, 2, 4, 1, 3, 5).reshape(x, y, z, -1)

    def share(*kinds: Tissue) -> FloatArray:
        return np.isin(blocks, kinds).mean(-1, dtype=np.float32)

    brain = np.pad(share(Tissue.OUTSIDE) < 0.5, 1)
    step = np.float32(_COARSE * SPACING_MM)
    depth = step * np.where(brain, depth_of(brain) - 0.5, 0.5 - depth_of(~brain))[1:-1, 1:-1, 1:-1]
    white = share(Tissue.WHITE, Tissue.LESION, Tissue.CEREBELLAR_WHITE, Tissue.STEM)
    ventricle = share(Tissue.VENTRICLE, Tissue.CHOROID)
    grey = 1 - share(Tissue.OUTSIDE, Tissue.CSF) - white - ventricle
    return np.stack([depth, white, grey, ventricle]).astype(np.float32)


def brain_box(head: Head) -> Box:
    """The voxels around the brain, 2 mm to spare, within the grid."""
    parts = []
    for axis, size in enumerate(SHAPE):
        found = np.flatnonzero((head.depth > -3).any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = (int((found[i] - 1) * NODE_SPACING) for i in (0, -1))
        parts.append(slice(max(low - 4, 0), min(high + 5, size)))
    return parts[0], parts[1], parts[2]


def draw_voxels(rng: np.random.Generator, head: Head, means: FloatArray) -> Voxels:
    """The voxels of `head`, its tissues having the signal `means` (tissues, 4); linear shares of tissues at borders.

    How much of the fluid around the brain the skull-stripping left is drawn.
    """
    box = brain_box(head)
    near = expand(head.depth, box) > -6
    tissues = load_anatomy(head.anatomy)
    middle = _middle(tissues)
    at = _to_anatomy(head.matrix, head.centre, middle, _source(head, box, near))
    fine = sample(_fine_maps(tissues[::-1] if head.mirrored else tissues, means), at)
    edge = rng.uniform(0.32, 0.60) + 0.04 * smooth_noise(rng, box, 9.0)[near]
    brain = np.zeros(near.shape, np.bool_)
    brain[near] = fine[4] > edge
    brain = largest_piece(brain)
    inside = brain[near]
    fine, at = fine[:, inside], at[:, inside]
    signal, body = fine[:4], np.clip(fine[9], 0.3, 1.0)
    place = ((at - middle[:, None]) * SPACING_MM + _COMMISSURE_MM[:, None]).astype(np.float32)
    caps = np.clip(2 * expand(head.maps[3], box)[brain], 0, 1)
    return Voxels(
        box, brain, signal / body, fine[5] / body, fine[6] / body, fine[7] / body, fine[8], fine[4], caps, place
    )


def _fine_maps(tissues: NDArray[np.uint8], means: FloatArray) -> FloatArray:
    """(10, x, y, z): four signals, smoothed brain, csf, ventricle, white, choroid, brain."""
    maps = np.empty((10, *tissues.shape), np.float32)
    for modality in range(4):
        maps[modality] = means[:, modality].astype(np.float32)[tissues]
    maps[9] = tissues > 0
    maps[4] = blurred(maps[9], 1.0)
    maps[5] = tissues == Tissue.CSF
    maps[6] = tissues == Tissue.VENTRICLE
    maps[7] = (tissues == Tissue.WHITE) | (tissues == Tissue.LESION)
    maps[8] = tissues == Tissue.CHOROID
    return maps


def _source(head: Head, box: Box, where: NDArray[np.bool_]) -> FloatArray:
    """Positions (3, voxels) before the displacement of the voxels of `box` that `where` marks."""
    indices = np.nonzero(where)
    return np.stack(
        [
            expand(component, box)[where] + (index + part.start).astype(np.float32)
            for component, index, part in zip(head.displacement, indices, box, strict=True)
        ]
    )
