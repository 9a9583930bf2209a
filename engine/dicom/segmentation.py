"""A mask as a DICOM segmentation (Segmentation Storage, binary, a segment a tissue), by highdicom."""

from __future__ import annotations

import highdicom
import numpy as np
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray

from .about import SYNTHETIC
from .case import NO_TIME, DicomCase
from .codes import ABNORMAL, ARTIFICIAL_INTELLIGENCE, BRAIN, COLOURS, NEOPLASM, TISSUES
from .encoding import encoded


def segmentation(case: DicomCase, label: NDArray[np.uint8], labels: tuple[str, ...]) -> bytes:
    """The file of a mask; `label` is (column, row, slice), 0..classes-1, `labels` the classes, background first.

    It refers to the slices of `case.reference`.
    """
    about = case.about
    made = Segmentation(
        source_images=case.slices(case.reference),
        pixel_array=np.ascontiguousarray(label.transpose(2, 1, 0)),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[_segment(case, number, name) for number, name in enumerate(labels[1:], start=1)],
        series_instance_uid=case.uid("seg"),
        series_number=case.series_number("seg"),
        sop_instance_uid=case.uid("seg", 0),
        instance_number=1,
        manufacturer="sbldm-engine",
        manufacturer_model_name=about.bundle_id,
        software_versions=about.version,
        device_serial_number=about.bundle_id,
        content_label="TUMOUR",
        content_description="Tissues of the tumour",
        content_creator_name=None,
        series_description=f"{SYNTHETIC} seg",
        content_date=case.date,
        content_time=NO_TIME,
        specific_character_set="ISO_IR 192",
    )
    del made.InstanceCreationDate, made.InstanceCreationTime
    made.SyntheticData = "YES"
    setattr(made, "ContributingEquipmentSequence", [case.equipment()])  # noqa: B010 - highdicom types it narrower
    made.DimensionOrganizationSequence[0].DimensionOrganizationUID = case.uid("seg", "dimensions")
    for index in made.DimensionIndexSequence:
        index.DimensionOrganizationUID = case.uid("seg", "dimensions")
    return encoded(made)


def _segment(case: DicomCase, number: int, name: str) -> SegmentDescription:
    algorithm = highdicom.AlgorithmIdentificationSequence("sbldm-engine", ARTIFICIAL_INTELLIGENCE, case.about.version)
    return SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=ABNORMAL,
        segmented_property_type=TISSUES.get(name, NEOPLASM),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        anatomic_regions=[BRAIN],
        tracking_id=f"{name} {case.about.sample:06d}",
        tracking_uid=case.uid("seg", name),
        display_color=CIELabColor.from_rgb(*COLOURS[name]) if name in COLOURS else None,
    )
