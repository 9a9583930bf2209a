"""Grain: the fine noise of scans, which networks that are trained to be right on average leave out.

Normals, smoothed until neighbours are as alike as the noise of scans on such a grid, with a deviation that goes
linearly from a dark voxel to a bright one. How strong it is was measured on the training cohort (`train/grain.py`); how
strong in one volume is drawn too.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

from ..blocks import bounding_box

FloatArray = NDArray[np.float32]
Mask = NDArray[np.bool_]

KERNELS = ((1.0, 3.0, 1.0), (1.0, 2.0, 1.0), (1.0, 3.0, 1.0))
"""Weights along x, y and z. Neighbours in flat white matter of seventeen scans correlate by .42, .57 and .51 below 1.5
pixels; these give .43, .55 and .47."""

STRENGTH_DEVIATION = 0.15
"""Of the logarithm of a volume's strength: scanners differ."""


def grain_numbers(shape: Sequence[int]) -> int:
    """Normals that grain on images (M, x, y, z) takes."""
    return 1 + prod(shape)


def grain_wanted(inside: Mask, images: int) -> Mask:
    """Of `grain_numbers` normals, those that grain in a region (x, y, z) of so many images follows from."""
    near = _near(inside)
    return np.concatenate([[True], np.tile(near.ravel(), images)])


def with_grain_inside(
    image: FloatArray, deviations: Sequence[Sequence[float]], normals: FloatArray, inside: Mask
) -> FloatArray:
    """As `with_grain`, in a region (x, y, z); voxels around it may have other grain or none.

    Only the normals of `grain_wanted` are looked at.
    """
    grained = image.copy()
    if not inside.any():
        return grained
    x, y, z = bounding_box(_near(inside))
    noise = normals[1:].reshape(image.shape)[:, x, y, z]
    grained[:, x, y, z] = _grained(image[:, x, y, z], deviations, normals[0], noise)
    return grained


def with_grain(image: FloatArray, deviations: Sequence[Sequence[float]], normals: FloatArray) -> FloatArray:
    """An image with grain, of the same scale.

    Args:
        image: (M, x, y, z) in 0..1.
        deviations: (M, 2) of the grain where the image is 0 and where it is 1.
        normals: `grain_numbers` of them.
    """
    return _grained(image, deviations, normals[0], normals[1:].reshape(image.shape))


def _grained(
    image: FloatArray, deviations: Sequence[Sequence[float]], strength: np.float32, noise: FloatArray
) -> FloatArray:
    strength = np.exp(np.float32(STRENGTH_DEVIATION) * strength)
    smoothed = [np.empty(noise.shape, np.float32) for _ in range(2)]
    for axis, kernel in enumerate(KERNELS, start=1):
        weights = np.array(kernel) / np.linalg.norm(kernel)
        convolve1d(noise, weights, axis=axis, output=smoothed[axis % 2], mode="wrap")
        noise = smoothed[axis % 2]
    dark, bright = np.array(deviations, np.float32).T[:, :, None, None, None]
    grain = np.clip(image, 0, 1)
    grain *= bright - dark
    grain += dark
    grain *= strength
    grain *= noise
    grain += image
    return grain


def _near(inside: Mask) -> Mask:
    """The region and the voxels beside it, across the edges of the field too, as the kernels reach."""
    near = inside
    for axis in range(inside.ndim):
        near = near | np.roll(near, 1, axis) | np.roll(near, -1, axis)
    return near
