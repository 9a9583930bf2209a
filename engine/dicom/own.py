"""Reading back what `case` and `segmentation` wrote: voxels on a stack that is known."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import MRImageStorage, SegmentationStorage

from .stack import Stack

DAMAGED = (InvalidDicomError, AttributeError, EOFError, IndexError, KeyError, NotImplementedError, OverflowError,
           RecursionError, TypeError)  # fmt: skip
"""What pydicom raises on damaged files, beside ValueError."""
_NEAR_MM = 1e-3


def own_series(files: Sequence[bytes], stack: Stack) -> NDArray[np.int16]:
    """The slices of a modality, in order, as (column, row, slice).

    Raises:
        ValueError: they are not those of this stack.
    """
    columns, rows, slices = stack.shape
    if len(files) != slices:
        raise ValueError(f"{len(files)} slices, not {slices}")
    volume = np.zeros((slices, rows, columns), np.int16)
    for number, data in enumerate(files):
        try:
            one = pydicom.dcmread(BytesIO(data))
            pixels = np.frombuffer(one.PixelData, "<u2")
            if (one.SOPClassUID, one.Rows, one.Columns, pixels.size) != (MRImageStorage, rows, columns, rows * columns):
                raise ValueError(f"slice {number + 1} is not an MR image of {columns} x {rows} pixels")
            if not _is_near(one.ImagePositionPatient, stack.position(number)):
                raise ValueError(f"slice {number + 1} lies elsewhere")
        except DAMAGED as error:
            raise ValueError(f"slice {number + 1}: damaged ({error})") from error
        volume[number] = pixels.reshape(rows, columns)
    return volume.transpose(2, 1, 0)


def own_mask(data: bytes, stack: Stack) -> NDArray[np.uint8]:
    """The labels of a segmentation, its segments' numbers, as (column, row, slice).

    Raises:
        ValueError: it is no segmentation of this stack.
    """
    columns, rows, slices = stack.shape
    label = np.zeros((slices, rows, columns), np.uint8)
    try:
        found = pydicom.dcmread(BytesIO(data))
        if (found.SOPClassUID, found.Rows, found.Columns) != (SegmentationStorage, rows, columns):
            raise ValueError(f"not a segmentation of {columns} x {rows} pixels")
        frames = _frames(found)
        for frame, about in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
            place = about.PlanePositionSequence[0].ImagePositionPatient
            number = stack.slice_at(place)
            if not 0 <= number < slices or not _is_near(place, stack.position(number)):
                raise ValueError("a frame lies on none of the slices")
            label[number][frame] = about.SegmentIdentificationSequence[0].ReferencedSegmentNumber
    except DAMAGED as error:
        raise ValueError(f"damaged ({error})") from error
    return label.transpose(2, 1, 0)


def _frames(found: Dataset) -> NDArray[np.bool_]:
    """(frame, row, column) of binary pixels, the first in the lowest bit (PS3.5, 8.1.1)."""
    shape = int(found.NumberOfFrames), int(found.Rows), int(found.Columns)
    size = int(np.prod(shape))
    bits = np.unpackbits(np.frombuffer(found.PixelData, np.uint8), count=size, bitorder="little")
    return bits.reshape(shape).astype(bool)


def _is_near(place: Sequence[float], wanted: Sequence[float]) -> bool:
    return bool(np.allclose(np.array(place, float), wanted, atol=_NEAR_MM))
