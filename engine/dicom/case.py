"""A case as DICOM: an MR series a modality (MR Image Storage, a file a slice), and what its mask refers to.

Classic MR images, not enhanced ones: every archive, viewer and planning system takes them, and a segmentation refers
to its slices one by one. No clock goes into a file, and every UID follows from what was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pydicom.valuerep import format_number_as_ds

from .about import SYNTHETIC, CaseAbout, shown
from .codes import PROCESSING
from .encoding import SliceWriter
from .stack import Stack

NO_DATE, NO_TIME = "19700101", "000000"  # where the standard wants one
BESIDE = 9001  # the first number of our series in a study that is kept
_REFERENCE = "t1ce"
_WHITE = 1000  # INT16_SCALE: the value that stands for the top of the model's range


@dataclass(frozen=True)
class DicomCase:
    """What the instances of one case have in common."""

    about: CaseAbout
    stack: Stack
    modalities: tuple[str, ...]

    def uid(self, *parts: object) -> str:
        """A UID of this case on these voxels."""
        return self.about.uid(self.stack.key, *parts)

    def series(self, modality: str, volume: NDArray[np.int16]) -> list[bytes]:
        """The files of a modality, a slice each; `volume` is (column, row, slice), 0..1000."""
        pixels = np.ascontiguousarray(volume.transpose(2, 1, 0)).astype("<u2")  # (slice, row, column)
        writer = SliceWriter(self._image(modality))
        return [
            writer.file(
                self.uid(modality, number),
                {
                    "InstanceNumber": ("IS", str(number + 1).encode()),
                    "ImagePositionPatient": ("DS", "\\".join(map(decimal, self.stack.position(number))).encode()),
                    "PixelData": ("OW", one.tobytes()),
                },
            )
            for number, one in enumerate(pixels)
        ]

    def slices(self, modality: str) -> list[Dataset]:
        """The slices of a modality without their pixels."""
        made: list[Dataset] = []
        for number in range(self.stack.shape[2]):
            one = self._image(modality)
            one.SOPInstanceUID, one.InstanceNumber = self.uid(modality, number), number + 1
            one.ImagePositionPatient = [decimal(value) for value in self.stack.position(number)]
            made.append(one)
        return made

    def _image(self, modality: str) -> Dataset:
        """What the slices of a modality have in common."""
        columns, rows, _ = self.stack.shape
        column_mm, row_mm, slice_mm = self.stack.spacing
        image = self.common(MRImageStorage)
        image.ImageType = ["DERIVED", "SECONDARY", "OTHER", "SYNTHETIC"]
        image.Modality = "MR"
        image.SeriesInstanceUID = self.uid(modality)
        image.SeriesNumber = self.series_number(modality)
        image.SeriesDescription = f"{SYNTHETIC} {modality}"
        image.ProtocolName = modality
        image.BodyPartExamined = "BRAIN"
        if "PatientPosition" not in image:
            image.PatientPosition = "HFS"
        image.ScanningSequence = "RM"
        image.SequenceVariant = "NONE"
        image.ScanOptions = image.EchoTrainLength = image.EchoTime = image.RepetitionTime = None
        image.MRAcquisitionType = "3D"
        image.SliceThickness = image.SpacingBetweenSlices = decimal(slice_mm)
        image.PixelSpacing = [decimal(row_mm), decimal(column_mm)]
        image.ImageOrientationPatient = [decimal(v) for v in self.stack.orientation]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.Rows, image.Columns = rows, columns
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        image.WindowCenter, image.WindowWidth = decimal(_WHITE / 2), decimal(_WHITE)
        image.BurnedInAnnotation, image.LossyImageCompression = "NO", "00"
        image.ImageComments = self.comment
        return image

    def series_number(self, role: str) -> int:
        """Number of a series of the study; beside those of a study that is kept it stands apart."""
        roles = [*self.modalities, "seg", "rtstruct"]
        first = 1 if self.about.study is None else BESIDE + len(roles) * self.about.sample
        return first + roles.index(role)

    @property
    def reference(self) -> str:
        """The modality whose slices segmentation and contours refer to: the post-contrast one where there is one."""
        return _REFERENCE if _REFERENCE in self.modalities else self.modalities[0]

    @property
    def date(self) -> str:
        """The date that a content needs: no clock's, the study's where it is kept."""
        kept = {} if self.about.study is None else dict(self.about.study.elements)
        return kept.get("StudyDate") or NO_DATE

    @property
    def comment(self) -> str:
        """What every instance says of itself."""
        return f"{self.about.description}; {shown(self.about.origin)}. Not for diagnosis."

    def common(self, sop_class: str) -> Dataset:
        """What the instances of the case have in common: patient, study, frame of reference, what made them."""
        about = self.about
        common = Dataset()
        common.SpecificCharacterSet = "ISO_IR 192"
        common.SOPClassUID = sop_class
        common.SyntheticData = "YES"
        common.update(self.identity())
        common.Manufacturer, common.ManufacturerModelName = "sbldm-engine", about.bundle_id
        common.SoftwareVersions = about.version
        common.ContributingEquipmentSequence = [self.equipment()]
        return common

    def identity(self) -> Dataset:
        """Patient, study and frame of reference: of the source that is kept, or of nobody."""
        about, found = self.about, Dataset()
        for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
                        "ReferringPhysicianName"):  # fmt: skip
            setattr(found, keyword, None)
        if about.study is not None:
            for keyword, value in about.study.elements:
                setattr(found, keyword, value)
            found.FrameOfReferenceUID = about.study.frame_of_reference
            found.PositionReferenceIndicator = about.study.position_reference
            return found
        found.PatientName = f"SYNTHETIC^SBLDM {about.sample:06d}"
        found.PatientID = f"SYNTHETIC-{about.recipe[:12]}-{about.sample:06d}"
        found.StudyDescription = f"{SYNTHETIC} {about.version}"[:64]
        found.StudyID = "SYNTHETIC"
        found.StudyInstanceUID = self.uid("study")
        found.FrameOfReferenceUID = self.uid("frame of reference")
        found.PositionReferenceIndicator = None
        return found

    def equipment(self) -> Dataset:
        """What made the case."""
        about, purpose, made = self.about, Dataset(), Dataset()
        purpose.CodeValue, purpose.CodingSchemeDesignator = PROCESSING.value, PROCESSING.scheme_designator
        purpose.CodeMeaning = PROCESSING.meaning
        made.Manufacturer, made.ManufacturerModelName = "sbldm-engine", about.bundle_id
        made.SoftwareVersions = about.version
        made.ContributionDescription = f"{about.description}, bundle {about.bundle_id}"
        made.PurposeOfReferenceCodeSequence = [purpose]
        return made


def decimal(value: float) -> str:
    """A Decimal String: at most 16 characters (PS3.5, 6.2)."""
    return format_number_as_ds(float(value) + 0.0)
