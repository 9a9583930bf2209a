"""A study as a hospital's archive gives it: four MR series and a segmentation of a ball of a brain with a tumour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from sbldm.engine.dicom.about import CaseAbout, Study
from sbldm.engine.dicom.case import DicomCase
from sbldm.engine.dicom.segmentation import segmentation
from sbldm.engine.dicom.stack import Stack

MODALITIES = ("t1", "t1ce", "t2", "flair")
LABELS = ("background", "ncr", "ed", "et")
SHAPE, SIDES = (64, 64, 20), (3.0, 3.0, 8.0)
FRAME = "1.2.3.4.5"
SCANNER: Mapping[str, Mapping[str, Any]] = {
    "t1": {"SeriesNumber": 3, "SeriesDescription": "AX T1 SE", "EchoTime": 9, "RepetitionTime": 600},
    "t1ce": {"SeriesNumber": 8, "SeriesDescription": "AX T1 SE", "EchoTime": 9, "RepetitionTime": 600,
             "ContrastBolusAgent": "GADOVIST"},
    "t2": {"SeriesNumber": 4, "SeriesDescription": "AX T2 TSE", "EchoTime": 100, "RepetitionTime": 5000},
    "flair": {"SeriesNumber": 5, "SeriesDescription": "AX T2 FLAIR", "EchoTime": 120, "RepetitionTime": 9000,
              "InversionTime": 2500},
}  # fmt: skip


def volumes() -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """(modality, column, row, slice) images and (column, row, slice) labels."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), -1) * SIDES
    centre = np.array(SHAPE) * SIDES / 2
    brain = np.linalg.norm(index - centre, axis=-1) < 60
    core = np.linalg.norm(index - centre - [20, 0, 0], axis=-1)
    rng = np.random.default_rng(0)
    images = [np.where(brain, 300 + 400 * (core < 20) + rng.normal(0, 20, SHAPE), 0) for _ in MODALITIES]
    label = np.select([core < 6, core < 12, core < 20], [1, 3, 2], 0).astype(np.uint8)
    return np.array(images).astype(np.int16), label


def stack(turn: NDArray[np.float64] | None = None) -> Stack:
    """The voxels of the study; `turn` (3, 3) turns them about the middle of the field of view."""
    affine = np.diag([*SIDES, 1.0])  # LPS
    if turn is not None:
        affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2) + [5, -7, 11]
    return Stack(SHAPE, affine)


def write_study(folder: Path, turn: NDArray[np.float64] | None = None) -> Path:
    """The study as files of arbitrary names, with a patient, private elements and headers of a scanner."""
    study = (("PatientName", "Doe^Jane"), ("PatientID", "MRN-4711"), ("PatientBirthDate", "19600102"),
             ("PatientSex", "F"), ("StudyInstanceUID", "1.2.3.4"), ("StudyDate", "20200304"), ("StudyTime", "101112"),
             ("StudyID", "77"), ("AccessionNumber", "ACC1"), ("ReferringPhysicianName", "House^Gregory"))  # fmt: skip
    about = CaseAbout("0", "scanner", "ab" * 32, 0, 0, (), "", Study(study, FRAME, ""))
    case = DicomCase(about, stack(turn), MODALITIES)
    images, label = volumes()
    folder.mkdir(parents=True, exist_ok=True)
    for modality, image in zip(MODALITIES, images, strict=True):
        for number, data in enumerate(case.series(modality, image)):
            path = folder / f"IM{MODALITIES.index(modality)}{number * 7 % 20:04d}"  # in no order
            path.write_bytes(data)
            with editing(path) as one:
                del one.SyntheticData, one.ContributingEquipmentSequence
                one.ImageType, one.Manufacturer = ["ORIGINAL", "PRIMARY", "M"], "ACME"
                one.ProtocolName = "TUMOR"
                one.private_block(0x0009, "ACME", create=True).add_new(1, "LO", "Jane Doe, ward 3")
                for keyword, value in SCANNER[modality].items():
                    setattr(one, keyword, value)
    (folder / "SEG").write_bytes(segmentation(case, label, LABELS))
    return folder


class editing:
    """Change a file: `with editing(path) as dataset`."""

    def __init__(self, path: Path) -> None:
        self._path, self._dataset = path, pydicom.dcmread(path)

    def __enter__(self) -> pydicom.Dataset:
        return self._dataset

    def __exit__(self, *_: object) -> None:
        self._dataset.save_as(self._path)


def files_of(folder: Path, modality: str) -> list[Path]:
    """The files of a series."""
    return sorted(folder.glob(f"IM{MODALITIES.index(modality)}*"))
