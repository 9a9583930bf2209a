"""The tissues of a brain as a scan of it would show them: blurred, thinner where fluid or white prevails, uneven.

Drawn brains have sharp, thick cortex and narrow sulci; tissues that are found in scans of patients do not. What is
drawn here brings their statistics together (docs/model.md): a denoiser that learned from scans then knows drawn brains.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.special import ndtr

from ..blocks import Box, bounding_box
from .splines import SPLINE_DEVIATION, FloatArray, basis, expanded, node_count

BLUR_MM = (1.0, 2.2)  # deviation, least and most
SHARPENING = (2.0, 4.0)  # power of the shares, least and most
WHITE, FLUID = (0.7, 0.4), (0.9, 0.35)  # log of their weight over grey matter's, mean and deviation
UNEVENNESS, UNEVEN_MM = 0.3, 12.0  # deviation of the logs from place to place, and how far apart places are
RIM = 0.35  # share of what lies outside that looks like fluid at the surface
_SINGLE = 4
_TRUNCATE = 4.0  # deviations that a Gaussian filter reaches
_ALL = slice(None)


def appearance_numbers(shape: Sequence[int], spacing_mm: Sequence[float]) -> int:
    """Normals that `as_scans_show` takes."""
    return _SINGLE + 2 * prod(_nodes(shape, spacing_mm))


def as_scans_show(shares: FloatArray, spacing_mm: Sequence[float], normals: FloatArray) -> FloatArray:
    """Shares (3, x, y, z) of white matter, grey matter and fluid as a scan shows them, sum 1 in the brain, 0 outside.

    Args:
        shares: the same of the brain itself.
        spacing_mm: of a voxel.
        normals: (`appearance_numbers`,) standard normals.
    """
    shape = shares.shape[1:]
    (blur, sharpening, white, fluid), rest = np.split(normals, [_SINGLE])
    brain = np.asarray(shares.any(axis=0), np.bool_)
    box = bounding_box(brain)
    sigma = [_between(BLUR_MM, blur) / mm for mm in spacing_mm]
    outside = (~brain).astype(np.float32)
    seen = np.stack([_blurred(share, sigma, box)[brain[box]] for share in (*shares, outside)])
    seen[2] += np.float32(RIM) * seen[3]
    steps = [UNEVEN_MM / mm for mm in spacing_mm]
    bases = [basis(n, step)[within] for n, step, within in zip(shape, steps, box, strict=True)]
    uneven = expanded(rest.reshape(2, *_nodes(shape, spacing_mm)), bases)[:, brain[box]]
    uneven *= np.float32(UNEVENNESS / SPLINE_DEVIATION)
    seen[0] *= np.exp(uneven[0] + np.float32(WHITE[0] + WHITE[1] * white))
    seen[2] *= np.exp(uneven[1] + np.float32(FLUID[0] + FLUID[1] * fluid))
    sharp = np.maximum(seen[:3], 0) ** np.float32(_between(SHARPENING, sharpening))
    shown = np.zeros(shares.shape, np.float32)
    shown[:, brain] = sharp / np.maximum(sharp.sum(axis=0), np.float32(1e-9))
    return shown


def _blurred(values: FloatArray, sigma: Sequence[float], box: Box) -> FloatArray:
    """A Gaussian filter's result in a box, of the voxels that it follows from."""
    reach = [int(_TRUNCATE * width + 0.5) for width in sigma]
    around = [slice(max(0, s.start - far), s.stop + far) for s, far in zip(box, reach, strict=True)]
    values = values[tuple(around)]
    for axis, (width, within, seen) in enumerate(zip(sigma, box, around, strict=True)):
        kept = slice(within.start - seen.start, within.stop - seen.start)
        filtered = np.asarray(gaussian_filter1d(values, width, axis, truncate=_TRUNCATE), np.float32)
        values = filtered[tuple(kept if a == axis else _ALL for a in range(3))]
    return values


def _between(limits: tuple[float, float], normal: np.float32) -> float:
    return limits[0] + (limits[1] - limits[0]) * float(ndtr(normal))


def _nodes(shape: Sequence[int], spacing_mm: Sequence[float]) -> list[int]:
    return [node_count(n, UNEVEN_MM / mm) for n, mm in zip(shape, spacing_mm, strict=True)]
