"""The files of a scan with a part of their voxels replaced: every other byte is the file's own but the description."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
from isal import igzip
from numpy.typing import NDArray

from ..dicom.about import CaseAbout
from ..processor import available_threads
from .layouts import Layout

Box = tuple[slice, slice, slice]

_LEVEL = 1  # of gzip, as `nifti` has it
_DESCRIPTION = {348: 148, 540: 240}  # size of the header -> where its 80 bytes of text begin
_DESCRIPTION_BYTES = 80
_LABELS_START = {348: 352, 540: 544}  # of the voxels in a file without extensions


@dataclass(frozen=True)
class ScanFile:
    """A NIfTI file of one volume, decompressed."""

    plain: bytes
    shape: tuple[int, int, int]
    kind: str  # NumPy's name of a stored value, its byte order included
    offset: int  # of the voxels
    slope: float
    intercept: float

    def stored(self) -> NDArray:
        """The values (x, y, z) as they are stored; read-only."""
        return np.frombuffer(self.plain, self.kind, int(np.prod(self.shape)), self.offset).reshape(
            self.shape, order="F"
        )

    def array(self) -> NDArray:
        """The image (x, y, z), scaled as the header says: of the stored type where nothing is scaled; read-only."""
        stored = self.stored()
        return stored if (self.slope, self.intercept) == (1.0, 0.0) else stored * self.slope + self.intercept

    def values(self, box: Box | None = None) -> NDArray[np.float32]:
        """`array` in single precision, of a box alone where one is given."""
        stored = self.stored()
        values = (stored if box is None else stored[box]).astype(np.float32)
        return values if (self.slope, self.intercept) == (1.0, 0.0) else values * self.slope + self.intercept

    def replaced(self, box: Box, changed: NDArray[np.bool_], values: NDArray[np.float32]) -> ScanFile:
        """The file whose voxels of a box are replaced where `changed`, from the image's scale to the stored one's.

        Args:
            box: of the file's voxels.
            changed, values: of the box.
        """
        data = bytearray(self.plain)
        voxels = np.frombuffer(data, self.kind, int(np.prod(self.shape)), self.offset).reshape(self.shape, order="F")
        part = voxels[box]
        part[changed] = self._stored(values[changed])
        return replace(self, plain=bytes(data))

    def compressed(self, text: str) -> bytes:
        """Bytes of the `.nii.gz`; `text`, ASCII, becomes the header's description."""
        data = bytearray(self.plain)
        _describe(data, text)
        return igzip.compress(bytes(data), _LEVEL, mtime=0)

    def of_labels(self, label: NDArray[np.uint8], text: str) -> bytes:
        """Bytes of a `.nii.gz` of labels (x, y, z) under this file's header."""
        size = _header_bytes(self.plain)
        kind = nib.Nifti1Header if size == 348 else nib.Nifti2Header
        header = kind(self.plain[:size])
        header.set_data_dtype(np.uint8)
        header["scl_slope"], header["scl_inter"], header["vox_offset"] = 1, 0, _LABELS_START[size]
        header["cal_min"], header["cal_max"] = 0, 0
        data = bytearray(header.binaryblock.ljust(_LABELS_START[size], b"\0") + label.tobytes("F"))
        _describe(data, text)
        return igzip.compress(bytes(data), _LEVEL, mtime=0)

    def _stored(self, values: NDArray[np.float32]) -> NDArray:
        stored = (values.astype(np.float64) - self.intercept) / self.slope
        kind = np.dtype(self.kind)
        if kind.kind == "f":
            return stored.astype(kind)
        limits = np.iinfo(kind)
        return np.clip(np.rint(stored), limits.min, limits.max).astype(kind)


@dataclass(frozen=True)
class Patch:
    """What becomes of a scan, in the order of its files' axes."""

    box: Box
    changed: NDArray[np.bool_]  # of the box
    values: tuple[NDArray[np.float32], ...]  # of the box, one a modality
    label: NDArray[np.uint8]  # (x, y, z) of the whole scan, 0..classes-1

    def applied(self, files: Sequence[ScanFile]) -> list[ScanFile]:
        """The files of the scan's modalities with it."""
        return [file.replaced(self.box, self.changed, one) for file, one in zip(files, self.values, strict=True)]


def scan_files(
    images: Sequence[ScanFile], mask: ScanFile, label: NDArray[np.uint8], layout: Layout, about: CaseAbout, number: int
) -> list[tuple[str, bytes]]:
    """Path and bytes of each file of a sample; `mask` lends its header to that of the label, `number` its name."""
    text, paths = about.description, [layout.path(number, role) for role in layout.roles]
    with ThreadPoolExecutor(available_threads(), "compress") as pool:
        made = [pool.submit(file.compressed, text) for file in images]
        made.append(pool.submit(mask.of_labels, layout.file_labels(label), text))
        return [(path, one.result()) for path, one in zip(paths, made, strict=True)]


def _header_bytes(plain: bytes | bytearray) -> int:
    little, big = (struct.unpack(order + "i", plain[:4])[0] for order in "<>")
    return little if little in _DESCRIPTION else big


def _describe(data: bytearray, text: str) -> None:
    start = _DESCRIPTION[_header_bytes(data)]
    told = text.encode("ascii", "replace")[: _DESCRIPTION_BYTES - 1]
    data[start : start + _DESCRIPTION_BYTES] = told.ljust(_DESCRIPTION_BYTES, b"\0")
