"""A DICOM segmentation that somebody made: what its segments are, and its mask on the slices of a series."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from .codes import ENHANCING, NECROSIS, NEOPLASM, OEDEMA
from .faults import DAMAGED, DicomFault
from .stack import Stack

MAX_FRAMES, MAX_SEGMENTS = 2**14, 64
_NEAR_MM = 0.1  # how far a frame may lie from its slice
_SAME = 1e-3
_NAMES = {
    (NECROSIS.value, "SCT"): "necrosis", ("M-54000", "SRT"): "necrosis", ("C81175", "NCIt"): "necrosis",
    (OEDEMA.value, "SCT"): "edema", ("M-36300", "SRT"): "edema",
    (ENHANCING.value, "NCIt"): "enhancing", (NEOPLASM.value, "SCT"): "whole tumor",
}  # fmt: skip
"""Property types (PS3.16, CID 7168 and 7159; SNOMED RT before 2018) -> what `scans.labels` calls them."""


@dataclass(frozen=True)
class SegmentationFile:
    """A segmentation by its header."""

    path: Path
    header: Dataset  # of the whole file, without pixels

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"segmentation {self.path.name}"

    @cached_property
    def segments(self) -> dict[str, frozenset[int]]:
        """What each segment is called, by its code or else by its label -> its number.

        Raises:
            DicomFault: segments that cannot be read.
        """
        names: dict[str, frozenset[int]] = {}
        try:
            if len(self.header.SegmentSequence) > MAX_SEGMENTS:
                raise DicomFault(f"{self.name}: {len(self.header.SegmentSequence)} segments, at most {MAX_SEGMENTS}")
            for segment in self.header.SegmentSequence:
                kind = segment.SegmentedPropertyTypeCodeSequence[0]
                coded = _NAMES.get((str(kind.CodeValue), str(kind.CodingSchemeDesignator)))
                name = coded or str(segment.SegmentLabel)
                names[name] = names.get(name, frozenset()) | {int(segment.SegmentNumber)}
        except DAMAGED as error:
            raise DicomFault(f"{self.name}: its segments cannot be read ({error})") from error
        return names

    @property
    def referenced_series(self) -> str:
        """Series Instance UID of the images that it was drawn on, "" where it says nothing."""
        found = self.header.get("ReferencedSeriesSequence") or []
        return str(found[0].get("SeriesInstanceUID", "")) if found else ""


def mask(content: bytes, stack: Stack, name: str) -> NDArray[np.uint8]:
    """Segment numbers (column, row, slice), 0 where there is none.

    Raises:
        DicomFault: damaged, fractional, overlapping, or not on the slices of the stack.
    """
    columns, rows, slices = stack.shape
    label = np.zeros((slices, rows, columns), np.uint8)
    try:
        found = pydicom.dcmread(BytesIO(content))
        _require(found, stack, name)
        pixels = np.atleast_3d(found.pixel_array.T).T.astype(bool)  # (frame, row, column)
        for frame, told in zip(pixels, found.PerFrameFunctionalGroupsSequence, strict=True):
            number = _slice(told, stack, name)
            segment = int(told.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
            if (label[number][frame] != 0).any():
                raise DicomFault(f"{name}: its segments overlap in slice {number + 1}; each voxel may have one tissue")
            label[number][frame] = segment
    except DAMAGED as error:
        raise DicomFault(f"{name}: damaged, or no binary segmentation ({error})") from error
    return label.transpose(2, 1, 0)


def _require(found: Dataset, stack: Stack, name: str) -> None:
    columns, rows, _ = stack.shape
    if found.SOPClassUID != SegmentationStorage or found.SegmentationType != "BINARY":
        raise DicomFault(f"{name}: is {found.get('SegmentationType', 'no segmentation')}, must be BINARY")
    if (int(found.Rows), int(found.Columns)) != (rows, columns) or not 0 < int(found.NumberOfFrames) <= MAX_FRAMES:
        size = f"{found.Columns} x {found.Rows} pixels in {found.NumberOfFrames} frames"
        raise DicomFault(f"{name}: has {size}, its images have {columns} x {rows}; draw it on their voxels")
    shared = found.SharedFunctionalGroupsSequence[0]
    directions = _group(shared, found, "PlaneOrientationSequence").ImageOrientationPatient
    spacing = _group(shared, found, "PixelMeasuresSequence").PixelSpacing
    column, row, _ = stack.spacing
    if not (np.allclose(np.array(directions, float), stack.orientation, atol=_SAME)
            and np.allclose(np.array(spacing, float), [row, column], atol=_SAME)):  # fmt: skip
        raise DicomFault(f"{name}: its voxels are not those of its images; draw it on their voxels")


def _group(shared: Dataset, found: Dataset, keyword: str) -> Dataset:
    groups = shared if keyword in shared else found.PerFrameFunctionalGroupsSequence[0]
    return groups[keyword].value[0]


def _slice(told: Dataset, stack: Stack, name: str) -> int:
    place = [float(v) for v in told.PlanePositionSequence[0].ImagePositionPatient]
    number = stack.slice_at(place)
    if not 0 <= number < stack.shape[2] or not np.allclose(place, stack.position(number), atol=_NEAR_MM):
        raise DicomFault(f"{name}: a frame lies on none of the slices of its images")
    return number
