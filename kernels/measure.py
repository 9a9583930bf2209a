"""Integer counts that a tumour's volumes, centre, box and brain overlap follow from (reference of `measure.cu`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLUMNS = (
    *("label_0", "label_1", "label_2", "label_3"),
    *("sum_x", "sum_y", "sum_z", "min_x", "min_y", "min_z", "max_x", "max_y", "max_z"),
    *("brain", "tumour_in_brain", "unused"),
)
"""What a row of `measure` holds. An empty tumour has minima of 2^31 - 1 and maxima of -1."""

_NO_MINIMUM = 2**31 - 1


@dataclass(frozen=True)
class TumourMeasure:
    """One sample's whole tumour; positions and sizes are shares (0..1) of the field of view along x, y, z."""

    volume_mm3: float
    label_volumes_mm3: tuple[float, ...]  # labels 1, 2, 3
    centre: tuple[float, ...] | None  # None: no tumour
    box: tuple[float, ...] | None  # None: no tumour
    brain_mm3: float
    brain_overlap: float  # share of the tumour where any modality is above 0; 1 without a tumour


def measure(images: NDArray[np.int16], labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Rows (N, 16) int64 as `COLUMNS` names them, of images (N, M, X, Y, Z) and labels (N, X, Y, Z) below 4."""
    rows = np.zeros((labels.shape[0], len(COLUMNS)), np.int64)
    for row, image, label in zip(rows, images, labels, strict=True):
        tumour = label > 0
        brain = (image > 0).any(axis=0)
        row[0:4] = np.bincount(label.reshape(-1), minlength=4)[:4]
        row[7:10], row[10:13] = _NO_MINIMUM, -1
        for axis in range(3):
            counts = tumour.sum(axis=tuple(other for other in range(3) if other != axis))
            (where,) = counts.nonzero()
            row[4 + axis] = counts @ np.arange(counts.size)
            if where.size:
                row[7 + axis], row[10 + axis] = where[0], where[-1]
        row[13], row[14] = brain.sum(), (brain & tumour).sum()
    return rows


def tumour_measure(
    row: NDArray[np.int64], shape: tuple[int, int, int], voxel_mm: tuple[float, float, float]
) -> TumourMeasure:
    """What a row of `measure` means on a grid of `shape` voxels (x, y, z) of `voxel_mm` millimetres each.

    Centre: mean of (voxel index + 0.5) / size; box: (last - first + 1) / size.
    """
    voxel = float(np.prod(voxel_mm))
    tumour = int(row[1:4].sum())
    size = np.asarray(shape, float)
    return TumourMeasure(
        volume_mm3=tumour * voxel,
        label_volumes_mm3=tuple((row[1:4] * voxel).tolist()),
        centre=tuple(((row[4:7] / tumour + 0.5) / size).tolist()) if tumour else None,
        box=tuple(((row[10:13] - row[7:10] + 1) / size).tolist()) if tumour else None,
        brain_mm3=int(row[13]) * voxel,
        brain_overlap=int(row[14]) / tumour if tumour else 1.0,
    )
