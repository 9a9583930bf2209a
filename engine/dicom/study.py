"""A study on disk: its series by modality, its segmentation, its identity."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from ..bundle.manifest import MODALITIES, SEGMENTATION
from ..files import open_regular
from .about import Study
from .assign import assign, unassigned
from .faults import DAMAGED, DicomFault
from .headers import IDENTITY, read_header, text
from .segments import SegmentationFile, mask
from .series import Series
from .stack import Stack


@dataclass(frozen=True)
class StudyFiles:
    """Files of one study, by their headers."""

    images: tuple[Series, ...]
    segmentations: tuple[SegmentationFile, ...]

    @property
    def head(self) -> Dataset:
        """A header of the study."""
        return self.images[0].head if self.images else self.segmentations[0].header

    @property
    def name(self) -> str:
        """As tables of cases name it: the folder that holds it, nothing of the patient."""
        files = [path for one in self.images for path in one.paths] + [one.path for one in self.segmentations]
        return Path(os.path.commonpath([path.parent for path in files])).name or "study"

    @property
    def code(self) -> str:
        """What tells studies of one folder apart: digits of a hash of Study Instance UID."""
        return hashlib.sha256(text(self.head, "StudyInstanceUID").encode()).hexdigest()[:8]

    def faults(self) -> list[str]:
        """What keeps its files from being one patient's study."""
        heads = [*(one.head for one in self.images), *(one.header for one in self.segmentations)]
        for keyword in ("PatientID", "PatientName"):
            if len({text(head, keyword) for head in heads}) > 1:
                return [f"mixed: one Study Instance UID, but more than one {keyword} among its series"]
        return []


@dataclass(frozen=True)
class DicomStudy:
    """What was chosen of a study; `read_contents` of the scans reads the files."""

    series: Mapping[str, Series]  # by modality
    others: tuple[Series, ...]
    segmentation: SegmentationFile | None

    def name_of(self, role: str) -> str:
        """A modality, or "seg", as messages name it."""
        if role in self.series:
            return f"{role}, {self.series[role].name}"
        return "seg" if self.segmentation is None else self.segmentation.name

    def files(self, role: str) -> tuple[Path, ...]:
        """The files of a modality, or of "seg"."""
        if role in self.series:
            return self.series[role].paths
        return () if self.segmentation is None else (self.segmentation.path,)

    def stack(self, role: str) -> Stack:
        """Where the voxels of a modality lie; those of "seg" are those of the series that it was drawn on."""
        return self.series[role].stack if role in self.series else self._drawn_on().stack

    def voxels(self, role: str, contents: Mapping[Path, bytes]) -> NDArray:
        """(column, row, slice) of a modality, or the numbers of segments.

        Raises:
            DicomFault: they cannot be read.
        """
        if role in self.series:
            return self.series[role].volume(contents)
        if self.segmentation is None:
            raise DicomFault("missing segmentation")
        return mask(contents[self.segmentation.path], self.stack(role), self.segmentation.name)

    def faults(self, modalities: Sequence[str]) -> list[str]:
        """What keeps these modalities and the mask from being one case."""
        used = {self.name_of(modality): self.series[modality] for modality in modalities if modality in self.series}
        if self.segmentation is not None and (drawn_on := self._drawn_on()) not in used.values():
            used[f"{self.segmentation.name}, drawn on {drawn_on.name}"] = drawn_on
        found = [f"{name}: {fault}" for name, one in used.items() for fault in one.faults()]
        frames = {name: one.frame_of_reference for name, one in used.items()}
        if self.segmentation is not None:
            frames[self.segmentation.name] = text(self.segmentation.header, "FrameOfReferenceUID")
        if len(set(frames.values())) > 1:
            told = "; ".join(f"{name}: {uid or 'none'}" for name, uid in frames.items())
            found.append(
                f"different frames of reference, so that one place in them is not one place in the patient ({told}); "
                "register the images to one first, nothing is registered here"
            )
        return found

    def identity(self) -> Study:
        """Patient, study and frame of reference, for an answer that keeps them."""
        one = next(iter(self.series.values()))
        kept = ((keyword, text(one.head, keyword)) for keyword in IDENTITY)
        frame, reference = one.frame_of_reference, text(one.head, "PositionReferenceIndicator")
        return Study(tuple((keyword, value) for keyword, value in kept if value), frame, reference)

    def _drawn_on(self) -> Series:
        """The series of the mask's voxels: the one that it refers to, else the first."""
        wanted = "" if self.segmentation is None else self.segmentation.referenced_series
        all_of_them = (*self.series.values(), *self.others)
        return next((one for one in all_of_them if one.uid == wanted), all_of_them[0])


def read_studies(files: Sequence[Path]) -> tuple[dict[str, StudyFiles], list[str]]:
    """The studies among DICOM files by their UID, and what is wrong with single files.

    Other objects than MR images and segmentations are left out.
    """
    images: dict[str, dict[str, list[tuple[Dataset, Path]]]] = {}
    segmentations: dict[str, list[SegmentationFile]] = {}
    faults: list[str] = []
    for path in files:
        try:
            header = read_header(path)
            study = text(header, "StudyInstanceUID")
            if text(header, "SOPClassUID") == SegmentationStorage:
                segmentations.setdefault(study, []).append(SegmentationFile(path, _whole_header(path)))
            elif text(header, "Modality") == "MR" and "Rows" in header:
                series = images.setdefault(study, {})
                series.setdefault(text(header, "SeriesInstanceUID"), []).append((header, path))
        except DicomFault as fault:
            faults += fault.faults
    return {
        uid: StudyFiles(_series(images.get(uid, {})), tuple(segmentations.get(uid, ())))
        for uid in sorted(images.keys() | segmentations.keys())
    }, faults


def choose(files: StudyFiles, modalities: Sequence[str], given: Mapping[str, str]) -> tuple[DicomStudy, list[str]]:
    """The series of a study by modality, its mask, and what is missing.

    Where no modality is asked for, those of the standard's four that can be told are kept.

    Raises:
        DicomFault: nothing can be chosen.
    """
    if not files.images:
        raise DicomFault("holds a segmentation without the images that it was drawn on")
    wanted = {role: value for role, value in given.items() if role != SEGMENTATION}
    chosen = assign(files.images, modalities or MODALITIES, wanted, strict=bool(modalities))
    faults: list[str] = []
    if missing := [modality for modality in modalities if modality not in chosen]:
        others = unassigned(files.images, chosen)
        seen = f" (not recognised: {others})" if others else ""
        faults.append(f"missing modality {', '.join(missing)}{seen}; say which it is by --map {missing[0]}=SERIES")
    segmentation = _segmentation(files.segmentations, given.get(SEGMENTATION))
    if segmentation is None:
        faults.append("missing segmentation (a DICOM SEG of this study)")
    others = tuple(one for one in files.images if one not in chosen.values())
    return DicomStudy(chosen, others, segmentation), faults


def _segmentation(there: Sequence[SegmentationFile], given: str | None) -> SegmentationFile | None:
    if given is not None:
        found = [one for one in there
                 if given in (text(one.header, "SeriesNumber"), text(one.header, "SeriesInstanceUID"))]  # fmt: skip
        if len(found) != 1:
            shown = ", ".join(f"series {text(one.header, 'SeriesNumber')}" for one in there) or "none"
            raise DicomFault(f"--map seg={given}: no single segmentation has this number or UID; there: {shown}")
        return found[0]
    if len(there) > 1:
        numbers = ", ".join(text(one.header, "SeriesNumber") or one.path.name for one in there)
        raise DicomFault(f"holds {len(there)} segmentations, series {numbers}; say which: --map seg=SERIES")
    return there[0] if there else None


def _series(series: Mapping[str, list[tuple[Dataset, Path]]]) -> tuple[Series, ...]:
    made = [Series(tuple(h for h, _ in files), tuple(p for _, p in files)) for _, files in sorted(series.items())]
    return tuple(sorted(made, key=lambda one: (len(one.number), one.number, one.uid)))


def _whole_header(path: Path) -> Dataset:
    try:
        with open_regular(path) as handle:
            return pydicom.dcmread(handle, stop_before_pixels=True)
    except DAMAGED as error:
        raise DicomFault(f"{path.name}: damaged ({error})") from error
