"""Where samples' files go, and what a data set needs beside them: BraTS (2021 and 2023), nnU-Net, BIDS, DICOM."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import BRATS_LABELS, SEGMENTATION
from ..dicom.about import SYNTHETIC, shown
from ..errors import UsageError
from .case_tags import CaseTags, NumberTags

LayoutName = Literal["brats", "nnunet", "bids", "dicom"]
Names = Literal["2021", "2023"]

RTSTRUCT = "rtstruct"  # role of the contours of a mask, in DICOM
_ONE_FILE = (SEGMENTATION, RTSTRUCT)
PREFIX = "sbldm-"  # of every case
_SUBJECT = "sub-sbldm"
_CHANNEL = re.compile(r"_\d{4}$", re.ASCII)
_DICOM_FILE = re.compile(r"[^/]+/(?P<role>[^/]+)/[^/]+?(?:_(?P<number>\d{4,5}))?\.dcm", re.ASCII)
_NAMES_2023 = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"}
_BIDS_SUFFIXES = {"t1": "T1w", "t1ce": "ce-gadolinium_T1w", "t2": "T2w", "flair": "FLAIR"}
_CHANNELS = {"t1": "T1", "t1ce": "T1ce", "t2": "T2", "flair": "FLAIR"}


@dataclass(frozen=True)
class DatasetFacts:
    """What the files beside the samples tell of a run."""

    samples: tuple[int, ...]
    bundle_id: str
    bundle_sha256: str
    version: str  # of sbldm-engine
    origin: str  # what the volumes were made from, "" for noise alone
    is_scan: bool = False  # a scan with a part of it made anew

    @property
    def note(self) -> bytes:
        """The text of a README."""
        scale = "are int16, 0..1000 standing for\nthe model's intensity range, background exactly 0"
        if self.is_scan:
            scale = "have the type and\nthe scale of the scan, but for a margin around the lesion its own voxels"
        return (
            f"Synthetic volumes: each {shown(self.origin)}. Not for diagnosis. Images {scale}. "
            "Which tumour was asked for and which was measured:\nmanifest.csv.\n"
        ).encode()


@dataclass(frozen=True)
class Layout(ABC):
    """Names of a sample's files, relative to the run directory in POSIX form."""

    modalities: tuple[str, ...]
    labels: tuple[str, ...]  # class names, background first
    tags: CaseTags  # what tells cases apart in file names

    @abstractmethod
    def path(self, sample: int, role: str) -> str:
        """Path of a modality's image, or of the labels where `role` is "seg"; of a series its folder."""

    @abstractmethod
    def tag_in(self, path: str) -> str:
        """The tag in a path of this layout; any text where it is no such path."""

    @abstractmethod
    def dataset_files(self, facts: DatasetFacts) -> dict[str, bytes]:
        """Files that describe the whole data set, written before the manifest."""

    @property
    def roles(self) -> tuple[str, ...]:
        """The modalities and "seg", in the order that files are listed."""
        return (*self.modalities, SEGMENTATION)

    @property
    def label_values(self) -> tuple[int, ...]:
        """What each class is called in the files, background first."""
        return tuple(range(len(self.labels)))

    def paths(self, sample: int) -> dict[str, str]:
        """Relative path by role, in the order that files are listed; of a series by `role/number`, from 1."""
        return {role: self.path(sample, role) for role in self.roles}

    def case(self, sample: int) -> str:
        """Name of a case: `sbldm-000007`, or `sbldm-ID`."""
        return PREFIX + self.tags.tag(sample)

    def sample_of(self, path: str) -> int | None:
        """The sample that has a file of this path; None where none has."""
        sample = self.tags.sample(self.tag_in(path))
        return sample if sample is not None and path in self.paths(sample).values() else None

    def file_labels(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels of arrays (0..classes-1) to those of files, same shape."""
        return np.asarray(self.label_values, np.uint8)[label]

    def array_labels(self, label: NDArray[Any]) -> NDArray[np.uint8]:
        """The inverse of `file_labels`; values that files do not hold become background."""
        table = np.zeros(256, np.uint8)
        table[list(self.label_values)] = np.arange(len(self.labels))
        return table[label.astype(np.uint8)]


@dataclass(frozen=True)
class BratsLayout(Layout):
    """`sbldm-000000/sbldm-000000_t1.nii.gz`, ET as 4; names of 2023: `-t1n`, `-t1c`, `-t2w`, `-t2f`, ET as 3."""

    names: Names

    @property
    def label_values(self) -> tuple[int, ...]:
        """BraTS 2021 writes NCR 1, ED 2, ET 4; BraTS 2023 writes ET 3; one tumour class is 1."""
        if self.names == "2021" and len(self.labels) == len(BRATS_LABELS):
            return BRATS_LABELS
        return tuple(range(len(self.labels)))

    def path(self, sample: int, role: str) -> str:
        case = self.case(sample)
        if self.names == "2023":
            return f"{case}/{case}-{_NAMES_2023.get(role, role)}.nii.gz"
        return f"{case}/{case}_{role}.nii.gz"

    def tag_in(self, path: str) -> str:
        return path.partition("/")[0].removeprefix(PREFIX)

    def dataset_files(self, facts: DatasetFacts) -> dict[str, bytes]:
        return {}


@dataclass(frozen=True)
class NnunetLayout(Layout):
    """`imagesTr/sbldm-000000_0000.nii.gz`, `labelsTr/sbldm-000000.nii.gz`, consecutive labels, `dataset.json`."""

    def path(self, sample: int, role: str) -> str:
        if role == SEGMENTATION:
            return f"labelsTr/{self.case(sample)}.nii.gz"
        return f"imagesTr/{self.case(sample)}_{self.modalities.index(role):04d}.nii.gz"

    def tag_in(self, path: str) -> str:
        folder, _, file = path.partition("/")
        name = file.removesuffix(".nii.gz").removeprefix(PREFIX)
        return _CHANNEL.sub("", name) if folder == "imagesTr" else name

    def dataset_files(self, facts: DatasetFacts) -> dict[str, bytes]:
        description = {
            "channel_names": {str(i): _CHANNELS.get(m, m) for i, m in enumerate(self.modalities)},
            "labels": {("background" if i == 0 else name): i for i, name in enumerate(self.labels)},
            "numTraining": len(facts.samples),
            "file_ending": ".nii.gz",
            "name": "sbldm",
            "description": f"{SYNTHETIC} {facts.version}, bundle {facts.bundle_id} ({facts.bundle_sha256}); "
            f"each {shown(facts.origin)}",
        }
        return {"dataset.json": _json(description)}


@dataclass(frozen=True)
class BidsLayout(Layout):
    """A BIDS derivative: `sub-sbldm000000/anat/sub-sbldm000000_T1w.nii.gz`, labels as `_desc-tumour_dseg`."""

    def path(self, sample: int, role: str) -> str:
        subject = _SUBJECT + self.tags.tag(sample)
        suffix = "desc-tumour_dseg" if role == SEGMENTATION else _BIDS_SUFFIXES.get(role, role)
        return f"{subject}/anat/{subject}_{suffix}.nii.gz"

    def tag_in(self, path: str) -> str:
        return path.partition("/")[0].removeprefix(_SUBJECT)

    def dataset_files(self, facts: DatasetFacts) -> dict[str, bytes]:
        description = {
            "Name": "Synthetic brain MRI with tumour masks",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [
                {
                    "Name": "sbldm-engine",
                    "Version": facts.version,
                    "Description": f"SYNTHETIC volumes of bundle {facts.bundle_id} (sha256 {facts.bundle_sha256}), "
                    f"each {shown(facts.origin)}",
                }
            ],
        }
        subjects = "".join(f"{_SUBJECT}{self.tags.tag(sample)}\n" for sample in facts.samples)
        labels = "".join(f"{value}\t{name}\n" for value, name in zip(self.label_values, self.labels, strict=True))
        files = {
            "dataset_description.json": _json(description),
            "README": facts.note,
            "participants.tsv": f"participant_id\n{subjects}".encode(),
            ".bidsignore": b"run.json\nledger*.jsonl\naudit.jsonl\nmanifest.csv\npreview.png\nreport.html\n*.log\n",
            "desc-tumour_dseg.tsv": f"index\tname\n{labels}".encode(),
            "desc-tumour_dseg.json": _json({"Manual": False, "Description": "Tumour tissue of the synthetic volume"}),
        }
        for modality in self.modalities:  # one sidecar a suffix: that of T1w holds for ce-gadolinium_T1w too
            suffix = _BIDS_SUFFIXES.get(modality, modality).rsplit("_")[-1]
            files[f"{suffix}.json"] = _json(
                {"SkullStripped": True, "Description": f"Synthetic volume, {shown(facts.origin)}"}
            )
        return files


@dataclass(frozen=True)
class DicomLayout(Layout):
    """`sbldm-000000/t1/sbldm-000000_t1_0001.dcm`, a file a slice; `sbldm-000000/seg/sbldm-000000_seg.dcm`."""

    slices: int  # of a volume
    rtstruct: bool  # whether the mask is written as contours, too

    @property
    def roles(self) -> tuple[str, ...]:
        return (*super().roles, RTSTRUCT) if self.rtstruct else super().roles

    def path(self, sample: int, role: str) -> str:
        case = self.case(sample)
        return f"{case}/{role}/{case}_{role}.dcm" if role in _ONE_FILE else f"{case}/{role}"

    def paths(self, sample: int) -> dict[str, str]:
        return {
            **{f"{m}/{k}": self._slice(sample, m, k) for m in self.modalities for k in range(1, self.slices + 1)},
            **{role: self.path(sample, role) for role in self.roles if role in _ONE_FILE},
        }

    def series(self, sample: int, modality: str) -> list[str]:
        """The files of a modality, in the order of its slices."""
        return [self._slice(sample, modality, number) for number in range(1, self.slices + 1)]

    def _slice(self, sample: int, role: str, number: int) -> str:
        case = self.case(sample)
        return f"{case}/{role}/{case}_{role}_{number:04d}.dcm"

    def tag_in(self, path: str) -> str:
        return path.partition("/")[0].removeprefix(PREFIX)

    def sample_of(self, path: str) -> int | None:
        sample, found = self.tags.sample(self.tag_in(path)), _DICOM_FILE.fullmatch(path)
        if sample is None or found is None or found["role"] not in self.roles:
            return None
        if found["role"] in _ONE_FILE:
            return sample if path == self.path(sample, found["role"]) else None
        number = int(found["number"] or 0)
        is_slice = 1 <= number <= self.slices and path == self._slice(sample, found["role"], number)
        return sample if is_slice else None

    def dataset_files(self, facts: DatasetFacts) -> dict[str, bytes]:
        return {"README": facts.note}


def make_layout(
    name: str,
    modalities: Sequence[str],
    labels: Sequence[str],
    names: str = "2021",
    tags: CaseTags | None = None,
    slices: int = 1,
    rtstruct: bool = False,
) -> Layout:
    """The layout of that name for a bundle's modalities and labels.

    `tags` tell cases apart, by default their numbers; `slices` of a volume are files of their own in DICOM, where
    `rtstruct` adds the contours of the mask.

    Raises:
        UsageError: no such layout or naming.
    """
    if names not in ("2021", "2023"):
        raise UsageError(f"--names {names}: allowed: 2021, 2023")
    if rtstruct and name != "dicom":
        raise UsageError(f"--rtstruct belongs to --layout dicom, not to {name}")
    parts = tuple(modalities), tuple(labels), tags or NumberTags()
    if name == "brats":
        return _distinct(BratsLayout(*parts, names))  # type: ignore[arg-type]
    if names != "2021":
        raise UsageError(f"--names {names} belongs to --layout brats, not to {name}")
    if name == "nnunet":
        return _distinct(NnunetLayout(*parts))
    if name == "bids":
        return _distinct(BidsLayout(*parts))
    if name == "dicom":
        return _distinct(DicomLayout(*parts, slices, rtstruct))
    raise UsageError(f"--layout {name}: allowed: {', '.join(get_args(LayoutName))}")


def _distinct(layout: Layout) -> Layout:
    if len({layout.path(0, role) for role in layout.roles}) != len(layout.roles):
        raise UsageError(f"two of the modalities {', '.join(layout.modalities)} get one file name in this layout")
    return layout


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()
