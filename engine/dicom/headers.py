"""The header of one DICOM file, without its pixels: what assignment, geometry and identity need of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from ..files import open_regular
from .faults import DAMAGED, DicomFault

IDENTITY = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
    "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName", "PatientPosition",
)  # fmt: skip
"""What `--identity keep` takes over: patient and study, nothing private."""
_ACQUISITION = (
    "SOPClassUID", "SOPInstanceUID", "Modality", "ImageType", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription",
    "ProtocolName", "FrameOfReferenceUID", "PositionReferenceIndicator", "SpecificCharacterSet", "EchoTime",
    "RepetitionTime", "InversionTime", "ContrastBolusAgent", "ContrastBolusAgentSequence", "BurnedInAnnotation",
)  # fmt: skip
_PIXELS = (
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PixelSpacing", "ImageOrientationPatient",
    "ImagePositionPatient", "GantryDetectorTilt", "NumberOfFrames",
)  # fmt: skip
WANTED = [Tag(keyword) for keyword in (*IDENTITY, *_ACQUISITION, *_PIXELS)]


def read_header(path: Path) -> Dataset:
    """The elements `WANTED` of a file, each of them decoded.

    Raises:
        DicomFault: it is damaged, or deflated as a whole (which may unfold to any size).
    """
    try:
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise DicomFault(f"{path.name}: deflated as a whole, which is not read; dcmconv stores it uncompressed")
        with open_regular(path) as handle:
            found = pydicom.dcmread(handle, stop_before_pixels=True, specific_tags=WANTED)
            for element in found:  # decodes it
                _ = element.value
            return found
    except DAMAGED as error:
        raise DicomFault(f"{path.name}: damaged or no DICOM file ({error})") from error


def text(header: Dataset, keyword: str) -> str:
    """An element as one line of text, empty where it is missing."""
    value = header.get(keyword)
    return "" if value is None else str(value).strip()


def number(header: Dataset, keyword: str) -> float | None:
    """An element's number; of several the first; None where it is missing or empty."""
    value = header.get(keyword)
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = value[0] if value else None
    return None if value is None or value == "" else float(value)
