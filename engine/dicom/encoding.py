"""The bytes of DICOM files (PS3.10); many slices that differ in few elements are cheap.

Explicit VR little endian where nothing else is said.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import BytesIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite, write_dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

IMPLEMENTATION = "2.25.133080592012914707820702195175327516780"  # class UID of this writer
IMPLEMENTATION_NAME = "SBLDM"
_PREAMBLE = b"\0" * 128 + b"DICM"
_LONG = (b"OB", b"OW")  # value representations whose length has four bytes


def encoded(dataset: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """The bytes of a file with this content."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID, meta.ImplementationVersionName = UID(IMPLEMENTATION), IMPLEMENTATION_NAME
    dataset.file_meta = meta
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


class SliceWriter:
    """Writes files that have a data set in common."""

    def __init__(self, common: Dataset) -> None:
        self._sop_class = str(common.SOPClassUID)
        self._elements = {int(element.tag): _bytes(Dataset({element.tag: element})) for element in common}

    def file(self, instance: str, own: Mapping[str, tuple[str, bytes]]) -> bytes:
        """The bytes of one instance; `own` are its elements: keyword -> value representation, encoded value."""
        elements = {**self._elements, int(Tag("SOPInstanceUID")): element("SOPInstanceUID", "UI", instance.encode())}
        for keyword, (kind, value) in own.items():
            elements[int(Tag(keyword))] = element(keyword, kind, value)
        return _PREAMBLE + self._meta(instance) + b"".join(elements[tag] for tag in sorted(elements))

    def _meta(self, instance: str) -> bytes:
        parts = [
            element("FileMetaInformationVersion", "OB", b"\0\1"),
            element("MediaStorageSOPClassUID", "UI", self._sop_class.encode()),
            element("MediaStorageSOPInstanceUID", "UI", instance.encode()),
            element("TransferSyntaxUID", "UI", ExplicitVRLittleEndian.encode()),
            element("ImplementationClassUID", "UI", IMPLEMENTATION.encode()),
            element("ImplementationVersionName", "SH", IMPLEMENTATION_NAME.encode()),
        ]
        length = struct.pack("<I", sum(map(len, parts)))
        return b"".join([element("FileMetaInformationGroupLength", "UL", length), *parts])


def element(keyword: str, kind: str, value: bytes) -> bytes:
    """An element of explicit VR (PS3.5, 7.1.2): texts padded by a space, UIDs and bytes by 0, to even length."""
    tag, vr = Tag(keyword), kind.encode()
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", *_LONG) else b" "
    head = struct.pack("<HH2s", tag.group, tag.element, vr)
    return head + (struct.pack("<HI", 0, len(value)) if vr in _LONG else struct.pack("<H", len(value))) + value


def _bytes(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset, parent_encoding="utf-8")
    return buffer.getvalue()
