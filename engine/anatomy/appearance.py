"""The tissues of a brain as a scan of it would show them: blurred, thinner where fluid or white prevails, uneven.

Drawn brains have sharp, thick cortex and narrow sulci; tissues that are found in scans of patients do not. What is
drawn here brings their statistics together (docs/model.md): a denoiser that learned from scans then knows drawn brains.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from scipy.special import ndtr

from ..blocks import blurred_in, bounding_box
from .splines import SPLINE_DEVIATION, FloatArray, basis, expanded, node_count

BLUR_MM = (1.0, 2.2)  # deviation, least and most
SHARPENING = (2.0, 4.0)  # power of the shares, least and most
WHITE, FLUID = (0.7, 0.4), (0.9, 0.35)  # log of their weight over grey matter's, mean and deviation
UNEVENNESS, UNEVEN_MM = 0.3, 12.0  # deviation of the logs from place to place, and how far apart places are
RIM = 0.35  # share of what lies outside that looks like fluid at the surface
_SINGLE = 4


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
    seen = np.stack([blurred_in(box, share, sigma)[brain[box]] for share in (*shares, outside)])
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


def _between(limits: tuple[float, float], normal: np.float32) -> float:
    return limits[0] + (limits[1] - limits[0]) * float(ndtr(normal))


def _nodes(shape: Sequence[int], spacing_mm: Sequence[float]) -> list[int]:
    return [node_count(n, UNEVEN_MM / mm) for n, mm in zip(shape, spacing_mm, strict=True)]
