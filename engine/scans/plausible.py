"""Whether prepared images are what the model takes: skull-stripped, background 0, one brain, sound intensities."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..blocks import profiles

MAX_BORDER = 0.5  # share of the border's voxels that are not 0; real brains cut by the scan reach 0.04
MAX_SHARE = 0.75  # share of the box that is not 0; an ellipsoid that touches its box has 0.52
MAX_FILL = 0.9  # share of the brain's own bounding box that is not 0
MAX_CORNERS = 1  # corners of the box, of 8, whose 2 x 2 x 2 voxels are all not 0
MAX_NEGATIVE = 0.01
MAX_MASK_DIFFERENCE = 0.1  # share of the common brain that one modality lacks
MAX_SATURATED = 0.05
SCALE_PERCENTILE = 99.5
SCALE_HEADROOM = 1.1  # bright tumour (FLAIR, rims on T1ce) lies beyond the percentile
SCALE_LIMIT = 5.0  # times the median of the brain: where outliers are more than the percentile leaves out
_RAILS = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 32767.0, 65535.0)  # where values are cut off
_STRIDE = 97  # of the voxels that are compared first


@dataclass(frozen=True)
class Intensities:
    """What was found of one modality."""

    scale: float  # raw value that becomes +1
    brain_share: float  # of the box


@dataclass(frozen=True)
class Judgement:
    """What was found of a case's images."""

    brain: NDArray[np.bool_]  # (x, y, z): where any modality is not 0
    intensities: dict[str, Intensities]  # by modality; none where the background is not 0
    faults: tuple[str, ...]


def judge(images: Mapping[str, NDArray], names: Mapping[str, str]) -> Judgement:
    """Judge the images (x, y, z) of a case; `names` are their files', for messages."""
    foreground = {modality: image != 0 for modality, image in images.items()}
    brain = np.zeros_like(next(iter(foreground.values())))
    for mask in foreground.values():
        brain |= mask
    faults: list[str] = []
    found: dict[str, Intensities] = {}
    for modality, image in images.items():
        told, intensities = _judge_one(image, foreground[modality], names[modality])
        faults += told
        if intensities is not None:
            found[modality] = intensities
    if not faults:
        faults += _different_masks(foreground, brain, names)
    return Judgement(brain, found, (*faults, *_identical(images, names)))


def robust_scale(values: NDArray) -> float:
    """The raw value that becomes +1, from the values inside of the brain (any shape, at least one above 0).

    1.1 times the 99.5th percentile, at most 5 times the median, so that single voxels of 32767 change nothing.
    """
    positive = values[values > 0]
    top, middle = np.percentile(positive, [SCALE_PERCENTILE, 50])
    return float(min(SCALE_HEADROOM * top, SCALE_LIMIT * middle))


def _judge_one(image: NDArray, foreground: NDArray[np.bool_], name: str) -> tuple[list[str], Intensities | None]:
    if not image.max() > 0:
        return [f"{name}: empty image, no value above 0"], None
    values = image.T[foreground.T]
    share = values.size / image.size
    border = _border_share(foreground)
    negative = np.count_nonzero(values < 0) / values.size
    if negative > MAX_NEGATIVE:
        return [
            f"{name}: negative values in {100 * negative:.3g} % of the brain (z-scored?), at most "
            f"{100 * MAX_NEGATIVE:g} % may be: background must be 0, brain above; give scans before normalisation"
        ], None
    if (
        border > MAX_BORDER
        or share > MAX_SHARE
        or _full_corners(foreground) > MAX_CORNERS
        or _fill(foreground) > MAX_FILL
    ):
        return [
            f"{name}: background is not 0: {100 * border:.3g} % of the border and {100 * share:.3g} % of the box would "
            f"count as brain (background about {_corner_value(image):.4g}); set all outside of the brain to 0 "
            "in every modality"
        ], None
    scale = robust_scale(values)
    top = float(values.max())
    saturated = np.count_nonzero(values > scale) / values.size
    if top in _RAILS:
        saturated = max(saturated, np.count_nonzero(values == top) / values.size)
    told = []
    if saturated > MAX_SATURATED and float(values.min()) < top:
        told.append(
            f"{name}: saturation: {100 * saturated:.3g} % of the brain lies at or above {min(scale, top):.4g}, at most "
            f"{100 * MAX_SATURATED:g} % may; give the scan before its values were cut off"
        )
    return told, Intensities(scale, share)


def _border_share(mask: NDArray[np.bool_]) -> float:
    faces = [face for at in (0, -1) for face in (mask[at], mask[:, at], mask[:, :, at])]
    return sum(map(np.count_nonzero, faces)) / sum(face.size for face in faces)


def _full_corners(mask: NDArray[np.bool_]) -> int:
    ends = (slice(0, 2), slice(-2, None))
    return sum(bool(mask[corner].all()) for corner in itertools.product(ends, repeat=3))


def _fill(mask: NDArray[np.bool_]) -> float:
    """Share of the mask's bounding box that is True; of a box of a few voxels nothing is said."""
    sides = [int(np.ptp(np.flatnonzero(counts))) + 1 for counts in profiles(mask)]
    return np.count_nonzero(mask) / float(np.prod(sides)) if min(sides) > 8 else 0.0


def _corner_value(image: NDArray) -> float:
    corners = [image[corner] for corner in itertools.product((0, -1), repeat=3)]
    return float(np.median(corners))


def _different_masks(
    foreground: Mapping[str, NDArray[np.bool_]], brain: NDArray[np.bool_], names: Mapping[str, str]
) -> list[str]:
    total = np.count_nonzero(brain)
    told = []
    for modality, mask in foreground.items():
        lacking = 1 - np.count_nonzero(mask) / total if total else 0.0
        if lacking > MAX_MASK_DIFFERENCE:
            told.append(
                f"{names[modality]}: brain masks differ by modality: it is 0 in {100 * lacking:.3g} % of the brain "
                f"that the others show, at most {100 * MAX_MASK_DIFFERENCE:g} % may be; strip all with one mask"
            )
    return told


def _identical(images: Mapping[str, NDArray], names: Mapping[str, str]) -> list[str]:
    told = []
    samples = {modality: image.T.reshape(-1)[::_STRIDE] for modality, image in images.items()}
    for one, other in itertools.combinations(images, 2):
        is_same = np.array_equal(samples[one], samples[other]) and np.array_equal(images[one], images[other])
        if is_same and images[one].any():
            told.append(f"{names[other]}: holds the same image as {names[one]}; each modality needs its own")
    return told
