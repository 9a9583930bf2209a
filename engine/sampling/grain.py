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

FloatArray = NDArray[np.float32]

KERNELS = ((1.0, 3.0, 1.0), (1.0, 2.0, 1.0), (1.0, 3.0, 1.0))
"""Weights along x, y and z. Neighbours in flat white matter of seventeen scans correlate by .42, .57 and .51 below 1.5
pixels; these give .43, .55 and .47."""

STRENGTH_DEVIATION = 0.15
"""Of the logarithm of a volume's strength: scanners differ."""


def grain_numbers(shape: Sequence[int]) -> int:
    """Normals that grain on images (M, x, y, z) takes."""
    return 1 + prod(shape)


def with_grain(image: FloatArray, deviations: Sequence[Sequence[float]], normals: FloatArray) -> FloatArray:
    """An image with grain, of the same scale.

    Args:
        image: (M, x, y, z) in 0..1.
        deviations: (M, 2) of the grain where the image is 0 and where it is 1.
        normals: `grain_numbers` of them.
    """
    strength = np.exp(np.float32(STRENGTH_DEVIATION) * normals[0])
    noise = normals[1:].reshape(image.shape)
    for axis, kernel in enumerate(KERNELS, start=1):
        weights = np.array(kernel) / np.linalg.norm(kernel)
        noise = convolve1d(noise, weights, axis=axis, mode="wrap")
    dark, bright = np.array(deviations, np.float32).T[:, :, None, None, None]
    return image + strength * (dark + (bright - dark) * np.clip(image, 0, 1)) * noise
