"""Files of one MR series: its slices in order, where they lie, and what keeps them from being a volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from .faults import DAMAGED, DicomFault
from .headers import number, text
from .stack import Stack

MAX_VOXELS = 2**27
SPACING_MM = (0.1, 20.0)
_SAME_DIRECTION, _SAME_SPACING_MM = 1e-3, 1e-3  # of the slices of a volume
_UNEVEN = 0.02  # share of the slice distance by which single ones may differ
_TILT_MM = 1.0  # how far the last slice may lie beside the perpendicular through the first


@dataclass(frozen=True)
class Series:
    """One series of images, by its headers."""

    headers: tuple[Dataset, ...]  # of its files
    paths: tuple[Path, ...]  # of the same files

    @property
    def head(self) -> Dataset:
        """The first file's header: what all of a series have in common."""
        return self.headers[0]

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return text(self.head, "SeriesInstanceUID")

    @property
    def number(self) -> str:
        """Series Number, "" without one."""
        return text(self.head, "SeriesNumber")

    @property
    def name(self) -> str:
        """As messages name it."""
        described = text(self.head, "SeriesDescription") or text(self.head, "ProtocolName")
        return f"series {self.number or self.uid}" + (f" ({described})" if described else "")

    @property
    def frame_of_reference(self) -> str:
        """Frame of Reference UID, "" without one."""
        return text(self.head, "FrameOfReferenceUID")

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The files by their slices' place along the normal; see `stack`."""
        return self._placed[0]

    @cached_property
    def stack(self) -> Stack:
        """Where the slices lie.

        Raises:
            DicomFault: they are not the slices of one volume.
        """
        return self._placed[1]

    def faults(self) -> list[str]:
        """What keeps the series from being read."""
        head, found = self.head, list[str]()
        if text(head, "SOPClassUID") == EnhancedMRImageStorage:
            return ["holds enhanced MR images (many slices a file); emf2sf of dcm4che makes one file a slice of them"]
        if text(head, "SOPClassUID") != MRImageStorage:
            return [f"holds no MR images ({text(head, 'Modality') or 'unknown modality'})"]
        if any(text(one, "BurnedInAnnotation").upper() == "YES" for one in self.headers):
            found.append("has text burned into its pixels (Burned In Annotation is YES)")
        if any(number(one, "GantryDetectorTilt") for one in self.headers):
            found.append("has a tilted gantry; resample it to straight slices")
        if text(head, "PhotometricInterpretation") != "MONOCHROME2" or number(head, "SamplesPerPixel") != 1:
            found.append(f"is {text(head, 'PhotometricInterpretation') or 'of unknown colour'}, must be MONOCHROME2")
        if not self.frame_of_reference:
            found.append("has no Frame of Reference UID, so nobody knows whether it fits the others")
        try:
            _ = self.stack
        except DicomFault as fault:
            found += fault.faults
        return found

    def volume(self, contents: Mapping[Path, bytes]) -> NDArray:
        """(column, row, slice) of the files' bytes, scaled as they say.

        Raises:
            DicomFault: pixels that cannot be read.
        """
        columns, rows, slices = self.stack.shape
        planes: list[NDArray] = []
        for index in self.order:
            planes.append(_plane(contents[self.paths[index]], self.paths[index].name, (rows, columns)))
        return np.stack(planes).transpose(2, 1, 0).reshape(columns, rows, slices)

    @cached_property
    def _placed(self) -> tuple[tuple[int, ...], Stack]:
        try:
            return _place(self.headers)
        except DAMAGED as error:
            raise DicomFault(f"its geometry cannot be read ({error})") from error


def _place(headers: Sequence[Dataset]) -> tuple[tuple[int, ...], Stack]:
    shapes = {(int(one.Columns), int(one.Rows)) for one in headers}
    directions = np.array([[float(v) for v in one.ImageOrientationPatient] for one in headers])
    spacings = np.array([[float(v) for v in one.PixelSpacing] for one in headers])
    if len(headers) < 2:
        raise DicomFault("has one slice, a volume is needed")
    differ = np.ptp(directions, axis=0).max() > _SAME_DIRECTION or np.ptp(spacings, axis=0).max() > _SAME_SPACING_MM
    if len(shapes) > 1 or differ:
        raise DicomFault("its slices differ in size or orientation (a localizer?)")
    (columns, rows), along, down = shapes.pop(), directions[0, :3], directions[0, 3:]
    if abs(along @ down) > _SAME_DIRECTION or not np.allclose([along @ along, down @ down], 1, atol=_SAME_DIRECTION):
        raise DicomFault("its rows and columns are not perpendicular (Image Orientation)")
    places = np.array([[float(v) for v in one.ImagePositionPatient] for one in headers])
    depth = places @ np.cross(along, down)
    order = np.argsort(depth, kind="stable")
    gaps = np.diff(depth[order])
    step = float(np.median(gaps))
    if step < SPACING_MM[0]:
        raise DicomFault("has several images in one place (echoes, time points or b-values); keep one of them")
    if np.abs(gaps - step).max() > _UNEVEN * step:
        where = int(np.abs(gaps - step).argmax())
        raise DicomFault(
            f"slices are missing or doubled: {gaps[where]:.3g} mm after slice {where + 1}, else {step:.3g} mm"
        )
    across = places[order[-1]] - places[order[0]]
    beside = float(np.hypot(across @ along, across @ down))
    if beside > _TILT_MM:
        raise DicomFault(f"is sheared, as by a tilted gantry: the last slice lies {beside:.3g} mm beside the first")
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([along * spacings[0, 1], down * spacings[0, 0], across / (len(headers) - 1)])
    affine[:3, 3] = places[order[0]]
    _require_plausible(affine, columns * rows * len(headers))
    return tuple(int(k) for k in order), Stack((columns, rows, len(headers)), affine)


def _require_plausible(affine: NDArray[np.float64], voxels: int) -> None:
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or sides.min() < SPACING_MM[0] or sides.max() > SPACING_MM[1]:
        raise DicomFault(f"its voxels are {' x '.join(f'{s:.4g}' for s in sides)} mm, allowed are 0.1 to 20 mm")
    if not 0 < voxels <= MAX_VOXELS:
        raise DicomFault(f"has {voxels} voxels, at most {MAX_VOXELS} are read")


def _plane(content: bytes, name: str, shape: tuple[int, int]) -> NDArray:
    """The pixels (row, column) of a slice, by its own scale."""
    syntax = "unknown"
    try:
        one = pydicom.dcmread(BytesIO(content))
        syntax = one.file_meta.TransferSyntaxUID.name
        if (int(one.Rows), int(one.Columns)) != shape or (number(one, "NumberOfFrames") or 1) != 1:
            raise DicomFault(f"{name}: changed while it was read")
        pixels = one.pixel_array
        slope, intercept = number(one, "RescaleSlope") or 1.0, number(one, "RescaleIntercept") or 0.0
    except DAMAGED as error:
        why = " ".join(str(error).split())  # pydicom tells of each decoder on a line of its own
        advice = "" if "Explicit VR" in syntax or "Implicit VR" in syntax else "; gdcmconv --raw decompresses it"
        raise DicomFault(f"{name}: its pixels cannot be decoded ({syntax}: {why}){advice}") from error
    if (slope, intercept) == (1.0, 0.0):
        return pixels
    return pixels * np.float64(slope) + intercept
