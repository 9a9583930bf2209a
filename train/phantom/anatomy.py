"""An individual head: where each of its voxels lies in the template, and what tissue it holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from .fields import (
    NODE_SPACING,
    SHAPE,
    Box,
    FloatArray,
    displace,
    expand,
    exponential,
    node_noise,
    node_positions,
    sample,
    smooth_noise,
)
from .regions import blurred, pieces_of_at_least
from .template import ORIGIN, load_template

_TEMPLATE_CENTRE = np.array([98.0, 117.0, 154.0], np.float32)  # middle of the brain in x and y, its top in z
_FIELD_CENTRE = np.array([120.0, 114.0, 138.0])  # where that point lies in BraTS cases
_SCALE = np.array([1.055, 1.025, 1.085])  # template over BraTS head
_SCALE_DEVIATION = np.array([0.03, 0.03, 0.025])
_ROTATION_DEVIATION = np.array([4.0, 1.5, 1.5])  # degrees about x, y, z
_WARP = ((44.0, 2.4), (22.0, 1.3), (11.0, 1.2))  # (spacing mm, deviation mm) of the velocity


@dataclass(frozen=True)
class Head:
    """A deformed template at the nodes of `fields.node_positions`."""

    matrix: NDArray[np.float32]  # (3, 3) from head to template
    centre: NDArray[np.float32]  # (3,) voxel of the head that falls on the template's centre
    displacement: FloatArray  # (3, X, Y, Z) mm, applied in head space before the matrix
    maps: FloatArray  # (5, X, Y, Z) the template's maps: depth, grey, white, deep, ventricle
    place: FloatArray  # (3, X, Y, Z) mm in MNI space

    @property
    def depth(self) -> FloatArray:
        """(X, Y, Z) mm below the brain's surface."""
        return self.maps[0]


@dataclass(frozen=True)
class Tissue:
    """What the voxels of `box` hold; maps have the box's shape; csf, grey and white sum to 1 in the brain."""

    box: Box
    brain: NDArray[np.bool_]
    csf: FloatArray
    grey: FloatArray
    white: FloatArray
    ventricle: FloatArray  # 0..1
    periventricular: FloatArray  # the same, blurred over some 5 mm
    depth: FloatArray  # mm below the brain's surface
    place: FloatArray  # (3, voxels of the brain) mm in MNI space


def draw_head(rng: np.random.Generator) -> Head:
    """A head of random size, pose, shape and width of the ventricles."""
    scale = _SCALE * (1 + _SCALE_DEVIATION * rng.standard_normal(3)) * (1 + 0.02 * rng.standard_normal())
    turn = Rotation.from_euler("xyz", _ROTATION_DEVIATION * rng.standard_normal(3), degrees=True)
    matrix = (np.diag(scale) @ turn.as_matrix()).astype(np.float32)
    centre = (_FIELD_CENTRE + rng.normal(0, (1.5, 1.5, 0.8))).astype(np.float32)
    velocity = np.stack(
        [sum(deviation * node_noise(rng, spacing) for spacing, deviation in _WARP) for _ in range(3)]
    ).astype(np.float32)
    displacement = exponential(velocity)
    widening = float(np.clip(rng.normal(1.5, 3.0), -3.0, 8.0))
    return _located(matrix, centre, _widen_ventricles(matrix, centre, displacement, widening))


def push_aside(head: Head, outward: FloatArray) -> Head:
    """`head` after its tissue was moved by `outward` (3, X, Y, Z) mm, given at the nodes in the moved head."""
    return _located(head.matrix, head.centre, displace(head.displacement, -outward) - outward)


def _located(matrix: FloatArray, centre: FloatArray, displacement: FloatArray) -> Head:
    coordinates = _to_template(matrix, centre, node_positions() + displacement)
    maps = sample(load_template().maps, coordinates)
    return Head(matrix, centre, displacement, maps, coordinates - ORIGIN[:, None, None, None])


def _to_template(matrix: FloatArray, centre: FloatArray, position: FloatArray) -> FloatArray:
    offset = _TEMPLATE_CENTRE - matrix @ centre
    flat = np.asarray(matrix @ position.reshape(3, -1) + offset[:, None], dtype=np.float32)
    return np.reshape(flat, position.shape)


def _widen_ventricles(
    matrix: FloatArray, centre: FloatArray, displacement: FloatArray, millimetres: float
) -> FloatArray:
    coordinates = _to_template(matrix, centre, node_positions() + displacement)
    ventricle = blurred(sample(load_template().ventricle, coordinates)[0], 1.0)
    slope = np.stack([np.gradient(ventricle, axis=axis) for axis in range(3)])
    steepness = np.sqrt((slope**2).sum(0))
    inward = slope / np.float32(max(float(steepness.max()), 1e-6)) * np.float32(millimetres)
    inward = inward.astype(np.float32, copy=False)
    return displace(displacement, inward) + inward


def brain_box(head: Head) -> Box:
    """The voxels around the brain, 2 mm to spare, within the grid."""
    parts = []
    for axis, size in enumerate(SHAPE):
        found = np.flatnonzero((head.depth > -3).any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = (int((found[i] - 1) * NODE_SPACING) for i in (0, -1))
        parts.append(slice(max(low - 2, 0), min(high + 3, size)))
    return parts[0], parts[1], parts[2]


def draw_tissue(rng: np.random.Generator, head: Head, effacement: FloatArray) -> Tissue:
    """The tissue of `head` with folds of its own; `effacement` (X, Y, Z) at the nodes, 0..1, closes the sulci."""
    box = brain_box(head)
    brain = expand(head.depth, box) > -4
    coordinates = _to_template(head.matrix, head.centre, _source(head, box, brain))
    maps = sample(load_template().maps, coordinates)
    depth = np.full(brain.shape, -4, np.float32)
    depth[brain] = maps[0]
    edge = np.float32(rng.uniform(1.2, 2.2)) + np.float32(0.5) * smooth_noise(rng, box, 6.0)
    kept = pieces_of_at_least(depth > edge, 3000)
    inside = kept[brain]
    maps, brain = maps[:, inside], kept
    volumes = [np.zeros(brain.shape, np.float32) for _ in range(4)]
    shares = _shares(rng, box, brain, maps, expand(effacement, box)[brain])
    for volume, values in zip(volumes, (*shares, maps[4]), strict=True):
        volume[brain] = values
    csf, grey, white, ventricle = volumes
    near = expand(head.maps[4], box)
    return Tissue(box, brain, csf, grey, white, ventricle, near, depth, coordinates[:, inside] - ORIGIN[:, None])


def _source(head: Head, box: Box, where: NDArray[np.bool_]) -> FloatArray:
    """Positions (3, voxels) before the displacement of the voxels of `box` that `where` marks."""
    indices = np.nonzero(where)
    return np.stack(
        [
            expand(component, box)[where] + (index + part.start).astype(np.float32)
            for component, index, part in zip(head.displacement, indices, box, strict=True)
        ]
    )


def _shares(
    rng: np.random.Generator, box: Box, brain: NDArray[np.bool_], maps: FloatArray, effacement: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """CSF, grey and white in the voxels of `brain`: the template's, jittered along the cortex and sharpened."""
    _, grey_ratio, white_ratio, deep, ventricle = maps
    freedom = 1 - deep
    folds = (smooth_noise(rng, box, 4.5) + np.float32(0.7) * smooth_noise(rng, box, 2.6))[brain]
    ribbon = (smooth_noise(rng, box, 6.0) + np.float32(0.5) * smooth_noise(rng, box, 3.0))[brain]
    outer = np.clip(1 - ventricle * 2, 0, 1) * freedom
    openness = np.float32(np.clip(rng.normal(-0.75, 0.3), -1.4, 0.0))
    closed = np.float32(0.6) * folds * outer - openness * outer + np.float32(2.0) * effacement * (1 - ventricle)
    sharpness = 1.15 + np.float32(rng.uniform(1.5, 2.1)) * freedom
    grey = sharpness * (grey_ratio + closed)
    white = sharpness * (white_ratio + closed + (np.float32(0.55) * ribbon - np.float32(0.7)) * outer)
    top = np.maximum(np.maximum(grey, white), 0)
    weights = [np.exp(-top), np.exp(grey - top), np.exp(white - top)]
    total = weights[0] + weights[1] + weights[2]
    return weights[0] / total, weights[1] / total, weights[2] / total
