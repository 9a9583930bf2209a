"""What the scanner adds: slice thickness and blur, coil and bias field, Rician noise, integer numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from .fields import Box, FloatArray, smooth_noise
from .regions import blurred

_THICK_SHARE, _RIM_SHARE = 0.5, 0.5  # of the cases
_EDGE_BLUR = 1.5  # mm


@dataclass(frozen=True)
class Protocol:
    """How one case is acquired; lengths in mm, one number a modality where there are four."""

    thick: bool
    axes: tuple[int, ...]  # the axis across the slices
    slices: tuple[float, ...]  # distance of the slices; 1 where the scan is a 3D one
    blur: tuple[float, ...]  # deviation in the slices
    noise: tuple[float, ...]  # deviation over white matter's signal


def draw_protocol(rng: np.random.Generator) -> Protocol:
    """Sharp 3D scans or clinical ones of thick slices, in which one modality may still be sharp."""
    thick = bool(rng.random() < _THICK_SHARE)
    axes, slices = [], []
    for modality in range(4):
        axes.append(2 if rng.random() < 0.8 or modality > 1 else int(rng.choice((0, 1))))
        coarse = (thick and rng.random() < 0.85) or (not thick and modality > 1 and rng.random() < 0.3)
        slices.append(float(rng.uniform(2.5, 6.5)) if coarse else 1.0)
    softest = 1.3 if thick else 0.9
    blur = tuple(float(b) for b in rng.uniform(0.45, softest, 4))
    noise = tuple(float(n) for n in rng.uniform((0.010, 0.015, 0.025, 0.020), (0.035, 0.055, 0.08, 0.07)))
    return Protocol(thick, tuple(axes), tuple(slices), blur, noise)


def draw_edge(rng: np.random.Generator, brain: NDArray[np.bool_]) -> FloatArray:
    """What skull-stripping and resampling leave of the signal near the surface of `brain`: 0..1 of the same shape.

    Some scans fade within 2 mm; others have a rim of nearly nothing around the brain, as those have that were resampled
    after they were stripped.
    """
    cover = blurred(brain.astype(np.float32), _EDGE_BLUR)
    rim = rng.random() < _RIM_SHARE
    start = rng.uniform(0.72, 0.86) if rim else 0.42
    least = rng.uniform(0.01, 0.03) if rim else rng.uniform(0.05, 0.4)
    return (least + (1 - least) * np.clip((cover - start) / min(0.22, 0.98 - start), 0, 1)) * brain


def acquire(
    rng: np.random.Generator, protocol: Protocol, painted: FloatArray, edge: FloatArray, box: Box
) -> NDArray[np.int16]:
    """Scan `painted` (4, x, y, z), multiplied by `edge`: int16 of that shape, 0 where `edge` is 0, else 1 or more."""
    brain = edge > 0
    wide, own_spacing = smooth_noise(rng, box, 80.0), 55.0
    coil = _distance_from_middle(brain.shape)
    unit, coil_depth = float(np.exp(rng.normal(np.log(800), 0.3))), rng.uniform(0.0, 0.25)
    scanned = np.zeros(painted.shape, np.int16)
    for modality in range(4):
        values = _sliced(painted[modality], protocol.axes[modality], protocol.slices[modality])
        shade = rng.uniform(0.01, 0.07) * wide + rng.uniform(0.01, 0.07) * smooth_noise(rng, box, own_spacing)
        shade += np.float32(coil_depth * rng.uniform(0.3, 1.0)) * coil
        values *= np.exp(shade)
        deviation = np.float32(protocol.noise[modality])
        values[brain] = _rician(rng, values[brain], deviation)
        for axis in range(3):
            gaussian_filter1d(values, protocol.blur[modality], axis=axis, output=values, mode="nearest", truncate=2.5)
        scale = unit * float(np.exp(rng.normal(0, 0.2)))
        scanned[modality][brain] = np.clip(np.rint(scale * values[brain] * edge[brain]), 1, 32767)
    return scanned


def _rician(rng: np.random.Generator, values: FloatArray, deviation: np.float32) -> FloatArray:
    """Magnitude of `values` with complex Gaussian noise (Gudbjartsson and Patz 1995)."""
    real = values + deviation * rng.standard_normal(values.shape, dtype=np.float32)
    imaginary = deviation * rng.standard_normal(values.shape, dtype=np.float32)
    return np.hypot(real, imaginary).astype(np.float32)


def _sliced(values: FloatArray, axis: int, distance: float) -> FloatArray:
    """`values` averaged over slices `distance` voxels apart along `axis` and linearly interpolated back; a copy."""
    if distance <= 1:
        return values.copy()
    weights = slice_weights(values.shape[axis], distance)
    moved = np.moveaxis(values, axis, -1)
    return np.ascontiguousarray(np.moveaxis(moved @ weights.T, -1, axis))


def slice_weights(size: int, distance: float) -> FloatArray:
    """(size, size) from fine voxels to themselves as seen through slices `distance` voxels thick; rows sum to 1."""
    middles = np.arange(distance / 2 - 0.5, size - 1 + distance, distance)
    position = np.arange(size)
    profile = np.clip((distance + 1) / 2 - np.abs(position[None] - middles[:, None]), 0, 1)
    profile /= profile.sum(1, keepdims=True) + 1e-9
    back = np.clip(1 - np.abs(position[:, None] - middles[None]) / distance, 0, None)
    weights = back @ profile
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _distance_from_middle(shape: tuple[int, ...]) -> FloatArray:
    """Squared distance from the box's middle over the squared half diagonal's mean, less its own middle value."""
    parts = [((np.arange(n, dtype=np.float32) - (n - 1) / 2) / 75) ** 2 for n in shape]
    return np.asarray(parts[0][:, None, None] + parts[1][:, None] + parts[2] - 0.8, np.float32)
