"""Prepared cases made to go further: warped, mirrored, scanned anew, given lesions of other cases.

Every function takes and returns arrays as `prepare` stores them - image (modality, x, y, z) uint8, 0 background and
1..255 brain; label (x, y, z) uint8, 0 background, 1 NCR, 2 ED, 3 ET - leaves its arguments alone, and depends on them
and on the generator only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, gaussian_filter1d, map_coordinates
from scipy.spatial.transform import Rotation

from ...engine.scans.plausible import robust_scale
from ...engine.scans.prepare import LABELS, LEVELS
from ..phantom.fields import sample, spline_noise

Image = NDArray[np.uint8]
Label = NDArray[np.uint8]
Case = tuple[Image, Label]
Spacing = tuple[float, float, float]  # mm along x, y, z

_LEAST_INSIDE = 0.7  # share of a carved lesion that has to fall on the receiver's brain


@dataclass(frozen=True)
class AugmentSettings:
    """How far a case may go from itself."""

    mirror: float = 0.5  # probability
    rotation: float = 6.0  # degrees, deviation about each axis
    scale: float = 0.05  # deviation of the logarithm along each axis
    warps: tuple[tuple[float, float], ...] = ((30.0, 2.5), (12.0, 1.0))  # (width, deviation) of the fields, mm
    carve: float = 0.3  # probability of another case's lesion
    margin_mm: float = 4.0  # of healthy tissue that comes along with it
    rescan: float = 0.8  # probability


def augment(
    case: Case, others: Sequence[Case], spacing_mm: Spacing, rng: np.random.Generator, settings: AugmentSettings
) -> Case:
    """One new case of `case`: perhaps with the lesion of one of `others`, then warped, then scanned anew."""
    image, label = case
    if others and rng.random() < settings.carve:
        donor = others[int(rng.integers(len(others)))]
        image, label = carve((image, label), donor, spacing_mm, rng, settings.margin_mm)
    image, label = warp((image, label), spacing_mm, rng, settings)
    if rng.random() < settings.rescan:
        image = rescan(image, spacing_mm, rng)
    return image, label


def warp(case: Case, spacing_mm: Spacing, rng: np.random.Generator, settings: AugmentSettings) -> Case:
    """Mirror, rotate, scale and warp smoothly: images by cubic splines, each label linearly and then the largest."""
    image, label = case
    shape = cast("tuple[int, int, int]", label.shape)
    step = np.asarray(spacing_mm, np.float64)
    turn = Rotation.from_euler("xyz", rng.normal(0, settings.rotation, 3), degrees=True).as_matrix()
    matrix = turn @ np.diag(np.exp(rng.normal(0, settings.scale, 3)))
    if rng.random() < settings.mirror:
        matrix = matrix @ np.diag([-1.0, 1.0, 1.0])
    middle = (np.array(shape) - 1) / 2
    axes = [(np.arange(size) - half) * mm for size, half, mm in zip(shape, middle, step, strict=True)]
    at = np.einsum("ij,jxyz->ixyz", matrix, np.stack(np.meshgrid(*axes, indexing="ij")))
    for axis in range(3):
        for width, deviation in settings.warps:
            at[axis] += deviation * spline_noise(rng, shape, _nodes(1.5 * width, spacing_mm))
    voxels = (at / step[:, None, None, None] + middle[:, None, None, None]).astype(np.float32)
    tissues = [(label == value).astype(np.float32) for value in range(1, LABELS)]
    brain = image.any(axis=0)
    body, *shares = sample(np.stack([brain.astype(np.float32), *tissues]), voxels)
    inside = (body >= 0.5) & _within(voxels, shape)
    found = np.where(inside, np.stack([1 - sum(shares), *shares]).argmax(0), 0).astype(np.uint8)
    values = np.zeros(image.shape, np.float32)
    for modality, whole in enumerate(_carried_outward(image, brain)):
        values[modality][inside] = map_coordinates(whole, voxels[:, inside], order=3, mode="nearest")
    return _stored(values, inside), found


def _carried_outward(image: Image, brain: NDArray[np.bool_] | np.bool_) -> NDArray[np.float32]:
    """The image with each background voxel as its nearest brain voxel, so that edges neither fade nor ring."""
    nearest = distance_transform_edt(~brain, return_distances=False, return_indices=True)
    return image[(slice(None), *cast("NDArray[np.intp]", nearest))].astype(np.float32)


def _nodes(mm: float, spacing_mm: Spacing) -> list[float]:
    return [mm / step for step in spacing_mm]


def _within(voxels: NDArray[np.float32], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.logical_and.reduce([(at >= -0.5) & (at <= size - 0.5) for at, size in zip(voxels, shape, strict=True)])


def rescan(image: Image, spacing_mm: Spacing, rng: np.random.Generator) -> Image:
    """Another scanner: contrast curve, slice thickness, bias field and noise of each modality; scaled as prepared."""
    brain = image.any(axis=0)
    scanned = np.zeros(image.shape, np.float32)
    shape = cast("tuple[int, int, int]", brain.shape)
    thick = rng.random() < 0.5
    wide = spline_noise(rng, shape, _nodes(70.0, spacing_mm))
    cover = brain.astype(np.float32)
    for modality, stored in enumerate(image):
        values = stored.astype(np.float32) / LEVELS
        values = values ** np.float32(np.exp(rng.normal(0, 0.15)))
        sigma = rng.uniform(0.0, 2.4 if thick and rng.random() < 0.8 else 0.6) / spacing_mm[2]
        if sigma > 0.2:
            values = gaussian_filter1d(values, sigma, axis=2) / np.maximum(gaussian_filter1d(cover, sigma, axis=2), 0.1)
        if rng.random() < 0.3:
            plane = (rng.uniform(0.3, 0.8),) * 2 + (0.0,)
            values = gaussian_filter(values, plane) / np.maximum(gaussian_filter(cover, plane), 0.1)
        own = spline_noise(rng, shape, _nodes(50.0, spacing_mm))
        values = values * np.exp(np.float32(rng.uniform(0, 0.08)) * wide + np.float32(rng.uniform(0, 0.08)) * own)
        noise = np.float32(rng.uniform(0.0, 0.02) * np.median(values[brain]))
        values[brain] += noise * rng.standard_normal(int(brain.sum()), dtype=np.float32)
        scanned[modality] = values * np.float32(LEVELS / robust_scale(np.maximum(values[brain], 1e-3)))
    return _stored(scanned, brain)


def carve(receiver: Case, donor: Case, spacing_mm: Spacing, rng: np.random.Generator, margin_mm: float) -> Case:
    """`receiver` with the lesion of `donor` and `margin_mm` of the tissue around it, at its own or the mirrored place.

    The donor's signal is matched by the medians of the healthy brain and fades out across the margin; tumour of the
    receiver that lies under the carved piece goes. Where less than 70 % of the lesion falls on the receiver's brain
    the receiver comes back unchanged. After Zhang et al., "CarveMix", MICCAI 2021, with a soft margin.
    """
    image, label = receiver
    source, lesion = donor
    if rng.random() < 0.5:
        source, lesion = source[:, ::-1], lesion[::-1]
    brain = image.any(axis=0)
    inside = (lesion > 0) & brain
    if not inside.any() or inside.sum() < _LEAST_INSIDE * (lesion > 0).sum():
        return receiver
    distance = cast("NDArray[np.float64]", distance_transform_edt(lesion == 0, sampling=spacing_mm))
    weight = np.clip(1 - distance / margin_mm, 0, 1) * brain * source.any(axis=0)
    weight = np.where(inside, 1.0, np.minimum(weight * 1.5, 1.0)).astype(np.float32)
    gains = _healthy_medians(image, label) / _healthy_medians(source, lesion)
    mixed = image * (1 - weight) + source * (weight * gains[:, None, None, None])
    carved = np.where(inside, lesion, np.where(weight > 0.5, 0, label)).astype(np.uint8)
    top = np.percentile(mixed[:, brain], 99.5, axis=1) * 1.1
    scale = LEVELS / np.maximum(top, LEVELS)
    return _stored(mixed * scale[:, None, None, None].astype(np.float32), brain), carved


def _healthy_medians(image: Image, label: Label) -> NDArray[np.float32]:
    healthy = image.any(axis=0) & (label == 0)
    return np.median(image[:, healthy], axis=1).astype(np.float32).clip(1)


def _stored(values: NDArray[np.floating], brain: NDArray[np.bool_] | np.bool_) -> Image:
    return np.where(brain, np.clip(np.rint(values), 1, LEVELS), 0).astype(np.uint8)
