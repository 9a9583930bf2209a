"""What one case looks like in numbers that need no second case: fine structure, grey and white matter, stripes, field.

Nothing here imports PyTorch: worker processes measure cases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_multiotsu

from .volumes import Levels, brain_of, largest_piece_share, neighbour_difference, tissue_histograms

FINE_PIXELS, MIDDLE_PIXELS = 1.5, 3.0  # deviations of the Gaussians between bands, in plane; as long along z
BANDS = ("fine", "middle", "coarse")  # below 1.5 pixels, 1.5 to 3, above
OUTER = 2  # voxels of the brain's border, and around the tumour, that grey and white matter leave out
NEAR = 2  # voxels from grey matter to white that are compared
MARGIN = 4  # voxels of the empty field that are looked at
CORNER = 1 / 16  # of each side of the field

Values = dict[str, NDArray[np.float64]]
"""Figures of a case: numbers (), a number a modality (modality,), and `grey_white` (modality, band), `histograms`."""


def describe(slices: Levels, label: NDArray[np.uint8], spacing_mm: Sequence[float], reference: int = 0) -> Values:
    """All figures of a prepared case, images (z, modality, x, y) and mask (z, x, y); `spacing_mm` of (x, y, z).

    `reference` is the modality that tells grey from white matter, T1. A figure that cannot be told is NaN.
    """
    field = {"corners": corners(slices), "background": background(slices)}
    slices, label = _cropped(slices, label)
    brain, tumour = brain_of(slices), label > 0
    found = field | {
        "slice_difference": neighbour_difference(slices, brain, 0),
        "in_plane_difference": np.mean([neighbour_difference(slices, brain, axis) for axis in (1, 2)]),
        "tumour_slice_difference": neighbour_difference(slices, tumour, 0),
        "tumour_in_plane_difference": np.mean([neighbour_difference(slices, tumour, axis) for axis in (1, 2)]),
        "mask_change": mask_change(label),
        "inside_brain": brain[tumour].mean() if tumour.any() else np.nan,
        "largest_piece": largest_piece_share(tumour),
    }
    bands = split(slices, spacing_mm)
    return {
        **{name: np.asarray(value, np.float64) for name, value in found.items()},
        "fine_structure": fine_structure(bands, slices, brain),
        "grey_white": grey_white(bands, slices, label, brain, reference),
        "histograms": tissue_histograms(slices, label, brain).astype(np.float64),
    }


def mask_change(label: NDArray[np.uint8]) -> float:
    """Voxel pairs along z whose tissue differs, over the mean of the pairs along x and y; NaN without tumour."""
    along = [float(np.count_nonzero(np.diff(label.astype(np.int8), axis=axis))) for axis in range(3)]
    in_plane = (along[1] + along[2]) / 2
    return along[0] / in_plane if in_plane else float("nan")


def corners(slices: Levels) -> float:
    """The largest value in the eight corners of the field, 0..1; what it should be is 0."""
    index = []
    for n in (slices.shape[0], *slices.shape[2:]):
        side = max(1, round(n * CORNER))
        index.append(np.r_[:side, n - side : n])
    return float(slices[np.ix_(index[0], range(slices.shape[1]), index[1], index[2])].max()) / 255


def background(slices: Levels) -> float:
    """Voxels outside of the largest connected piece that are not 0 in some modality; what it should be is 0."""
    bright = slices.any(axis=1)
    pieces, count = ndimage.label(bright, structure=np.ones((3, 3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    return float(bright.sum() - np.bincount(pieces.ravel())[1:].max()) if count else 0.0


def split(slices: Levels, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
    """Images (z, modality, x, y) as a sum of `BANDS`: (band, modality, z, x, y), of 0..255."""
    images = np.moveaxis(slices, 1, 0).astype(np.float32)
    smooth = [images]
    for pixels in (FINE_PIXELS, MIDDLE_PIXELS):
        sigma = (0.0, *(pixels * spacing_mm[0] / mm for mm in (spacing_mm[2], spacing_mm[0], spacing_mm[1])))
        smooth.append(np.asarray(ndimage.gaussian_filter(images, sigma, truncate=3.0), np.float32))
    smooth[0] -= smooth[1]
    smooth[1] -= smooth[2]
    return np.stack(smooth)


def fine_structure(bands: NDArray[np.float32], slices: Levels, brain: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Deviation of the fine band over that of the image inside of the brain's border, a modality each."""
    inner = _inner(brain)
    images = np.moveaxis(slices, 1, 0)
    spread = np.array([image[inner].std() for image in images], np.float64)
    fine = np.array([band[inner].std() for band in bands[0]], np.float64)
    return np.divide(fine, spread, out=np.full_like(spread, np.nan), where=spread > 0)


def grey_white(
    bands: NDArray[np.float32], slices: Levels, label: NDArray[np.uint8], brain: NDArray[np.bool_], reference: int
) -> NDArray[np.float64]:
    """White less grey matter where they meet, over the brain's mean: (modality, band); the bands add up to the whole.

    Fluid, grey and white matter are told apart in the healthy brain by Otsu's three classes of the reference modality
    (Liao et al. 2001).
    """
    missing = np.full((slices.shape[1], len(BANDS)), np.nan)
    around = ndimage.binary_dilation(label > 0, np.ones((1, 3, 3)), iterations=OUTER)
    healthy = _inner(brain) & ~np.asarray(around, bool)
    image = slices[:, reference]
    counts = np.bincount(image[healthy], minlength=256)
    if np.count_nonzero(counts) < len(BANDS):
        return missing
    low, high = threshold_multiotsu(classes=3, hist=(counts, np.arange(256)))
    grey, white = healthy & (image > low) & (image <= high), healthy & (image > high)
    grey, white = grey & _near(white), white & _near(grey)
    if not grey.any() or not white.any():
        return missing
    level = np.moveaxis(slices, 1, 0)[:, brain].mean(axis=1, dtype=np.float64)
    apart = bands[:, :, white].mean(axis=2, dtype=np.float64) - bands[:, :, grey].mean(axis=2, dtype=np.float64)
    return (apart / np.maximum(level, 1e-6)).T


def tissue_contrast(
    slices: Levels, label: NDArray[np.uint8], spacing_mm: Sequence[float], reference: int
) -> NDArray[np.float64]:
    """`grey_white` of a prepared case, images (z, modality, x, y) and mask (z, x, y)."""
    slices, label = _cropped(slices, label)
    return grey_white(split(slices, spacing_mm), slices, label, brain_of(slices), reference)


def _cropped(slices: Levels, label: NDArray[np.uint8]) -> tuple[Levels, NDArray[np.uint8]]:
    """Images and mask without most of the empty field around them."""
    filled = slices.any(axis=1) | (label > 0)
    box = []
    for axis in range(3):
        at = np.flatnonzero(filled.any(axis=tuple(k for k in range(3) if k != axis)))
        first, last = (int(at[0]), int(at[-1])) if at.size else (0, filled.shape[axis] - 1)
        box.append(slice(max(first - MARGIN, 0), last + 1 + MARGIN))
    return np.ascontiguousarray(slices[box[0], :, box[1], box[2]]), np.ascontiguousarray(label[tuple(box)])


def _inner(brain: NDArray[np.bool_]) -> NDArray[np.bool_]:
    inner = np.asarray(ndimage.binary_erosion(brain, np.ones((1, 3, 3)), iterations=OUTER), bool)
    return inner if inner.any() else brain


def _near(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(ndimage.binary_dilation(mask, np.ones((1, 3, 3)), iterations=NEAR), bool)
