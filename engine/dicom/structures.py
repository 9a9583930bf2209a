"""A mask as an RT Structure Set (PS3.3, A.19): closed contours on the slices of the images, an ROI a tissue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, MRImageStorage, RTStructureSetStorage

from .about import SYNTHETIC
from .case import NO_TIME, DicomCase
from .codes import COLOURS, NEOPLASM, TISSUES
from .contours import Ring, outlines
from .encoding import encoded

_STUDY = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: how structure sets refer to a study
_CONTOUR_DATA = Tag("ContourData")
_DIGITS = 6  # decimals of a millimetre


def structure_set(case: DicomCase, label: NDArray[np.uint8], labels: tuple[str, ...]) -> bytes:
    """The file of a mask's contours; `label` is (column, row, slice), 0..classes-1, `labels` the classes.

    Every class but the background is an ROI, numbered as the segments are, also where the mask has none of it. They
    refer to the slices that the segmentation refers to. Implicit VR: contours of many points have no length in an
    explicit one.
    """
    rois = list(enumerate(labels[1:], start=1))
    made = case.common(RTStructureSetStorage)
    made.SOPInstanceUID = case.uid("rtstruct", 0)
    made.Modality, made.OperatorsName = "RTSTRUCT", None
    made.SeriesInstanceUID, made.SeriesNumber = case.uid("rtstruct"), case.series_number("rtstruct")
    made.SeriesDescription = f"{SYNTHETIC} rtstruct"
    made.InstanceNumber = 1
    made.StructureSetLabel, made.StructureSetName = "TUMOUR", f"{SYNTHETIC} {case.about.sample:06d}"
    made.StructureSetDescription = case.comment
    made.StructureSetDate, made.StructureSetTime = case.date, NO_TIME
    made.ApprovalStatus = "UNAPPROVED"
    made.ReferencedFrameOfReferenceSequence = [_frame_of_reference(case, made)]
    made.StructureSetROISequence = [_roi(made, number, name) for number, name in rois]
    made.RTROIObservationsSequence = [_observation(number, name) for number, name in rois]
    made.ROIContourSequence = [_contours(case, label == number, number, name) for number, name in rois]
    return encoded(made, ImplicitVRLittleEndian)


def _frame_of_reference(case: DicomCase, made: Dataset) -> Dataset:
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = case.uid(case.reference)
    series.ContourImageSequence = [_image(case, number) for number in range(case.stack.shape[2])]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY, made.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = made.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(case: DicomCase, number: int) -> Dataset:
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = MRImageStorage, case.uid(case.reference, number)
    return image


def _roi(made: Dataset, number: int, name: str) -> Dataset:
    roi = Dataset()
    roi.ROINumber, roi.ROIName = number, name
    roi.ReferencedFrameOfReferenceUID = made.FrameOfReferenceUID
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    return roi


def _observation(number: int, name: str) -> Dataset:
    told = Dataset()
    told.ObservationNumber = told.ReferencedROINumber = number
    told.ROIObservationLabel = name
    told.RTROIIdentificationCodeSequence = [_coded(TISSUES.get(name, NEOPLASM))]
    told.RTROIInterpretedType = told.ROIInterpreter = None  # no target of a treatment
    return told


def _coded(code: Code) -> Dataset:
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return made


def _contours(case: DicomCase, mask: NDArray[np.bool_], number: int, name: str) -> Dataset:
    """The contours of an ROI; `mask` is (column, row, slice)."""
    made = Dataset()
    made.ReferencedROINumber = number
    if name in COLOURS:
        made.ROIDisplayColor = list(COLOURS[name])
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    found = [_contour(case, int(k), ring) for k in slices for ring in outlines(mask[:, :, k].T)]
    if found:
        made.ContourSequence = found
    return made


def _contour(case: DicomCase, number: int, ring: Ring) -> Dataset:
    voxels = np.column_stack([ring[:, 1], ring[:, 0], np.full(len(ring), float(number)), np.ones(len(ring))])
    points = (voxels @ case.stack.affine.T)[:, :3]
    contour = Dataset()
    contour.ContourImageSequence = [_image(case, number)]
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
    data = "\\".join(map(_millimetres, points.ravel().tolist())).encode()
    data += b" " * (len(data) % 2)
    contour[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(data), data, 0, True, True)
    return contour


def _millimetres(value: float) -> str:
    """A Decimal String of at most 16 characters (PS3.5, 6.2)."""
    return f"{round(value, _DIGITS) + 0.0:.{_DIGITS}f}".rstrip("0").rstrip(".")
