"""Reading back the images that `case` wrote: voxels on a stack that is known."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import MRImageStorage

from .faults import DAMAGED, DicomFault
from .stack import Stack

_NEAR_MM = 1e-3


def own_series(files: Sequence[bytes], stack: Stack) -> NDArray[np.int16]:
    """The slices of a modality, in order, as (column, row, slice).

    Raises:
        DicomFault: they are not those of this stack.
    """
    columns, rows, slices = stack.shape
    if len(files) != slices:
        raise DicomFault(f"{len(files)} slices, not {slices}")
    volume = np.zeros((slices, rows, columns), np.int16)
    for number, data in enumerate(files):
        try:
            one = pydicom.dcmread(BytesIO(data))
            pixels = np.frombuffer(one.PixelData, "<u2")
            if (one.SOPClassUID, one.Rows, one.Columns, pixels.size) != (MRImageStorage, rows, columns, rows * columns):
                raise DicomFault(f"slice {number + 1} is not an MR image of {columns} x {rows} pixels")
            if not _is_near(one.ImagePositionPatient, stack.position(number)):
                raise DicomFault(f"slice {number + 1} lies elsewhere")
        except DAMAGED as error:
            raise DicomFault(f"slice {number + 1}: damaged ({error})") from error
        volume[number] = pixels.reshape(rows, columns)
    return volume.transpose(2, 1, 0)


def _is_near(place: Sequence[float], wanted: Sequence[float]) -> bool:
    return bool(np.allclose(np.array(place, float), wanted, atol=_NEAR_MM))
