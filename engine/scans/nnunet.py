"""Data sets with a `dataset.json`: nnU-Net 2 and 1, and the Medical Segmentation Decathlon with its 4D files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..bundle.manifest import MODALITIES
from ..errors import InvalidInputError
from .cases import CaseFiles, Discovery, ImageFile
from .dataset_json import DATASET_JSON, ENDINGS, DatasetDescription, load_json, read_dataset_json
from .labels import LabelMap
from .names import is_nifti, stem
from .options import ReadOptions

IMAGES, LABELS = "imagesTr", "labelsTr"
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def is_nnunet(data_dir: Path) -> bool:
    """Whether the folder is a data set that its `dataset.json` describes."""
    description = data_dir / DATASET_JSON
    if not os.path.lexists(description):
        return False
    if os.path.isdir(data_dir / IMAGES) or os.path.isdir(data_dir / LABELS):
        return True
    return "dataset" in load_json(description)


def discover_nnunet(data_dir: Path, options: ReadOptions) -> Discovery:
    """The cases that nnU-Net would train on, by name.

    Raises:
        InvalidInputError: what is wrong with `dataset.json`, or its folders cannot be opened.
    """
    described = read_dataset_json(data_dir / DATASET_JSON)
    meaning = options.labels or described.meaning()
    found = Discovery(convention=f"nnU-Net data set, labels {meaning.described()}")
    if described.listed is not None:
        _add_listed(found, data_dir, described, meaning)
    else:
        _add_folders(found, data_dir, described, meaning)
    return found


def _add_listed(found: Discovery, data_dir: Path, described: DatasetDescription, meaning: LabelMap) -> None:
    for name, case in sorted((described.listed or {}).items()):
        paths = [data_dir / image for image in case.images]
        if len(paths) == 1 and max(described.channels) > 0:
            images = _one_file(paths[0], described)
        else:
            images = {
                modality: ImageFile(paths[channel])
                for channel, modality in described.channels.items()
                if channel < len(paths)
            }
        label = None if case.label is None else data_dir / case.label
        for path in [*(image.path for image in images.values()), *([label] if label else [])]:
            if not os.path.exists(path):
                shown = path.relative_to(data_dir) if path.is_relative_to(data_dir) else path
                found.add_fault(name, f"{shown}: is listed in dataset.json, but not there")
        found.cases.append(CaseFiles(name, _ordered(images), label, meaning))
    listed = {path.resolve() for case in found.cases for path in _paths(case)}
    found.unused = [path for path in _files(data_dir / IMAGES) + _files(data_dir / LABELS)
                    if path.resolve() not in listed and not _other_channel(path, described)]  # fmt: skip
    if found.unused:
        found.notes.append(
            f"{len(found.unused)} files are not listed in {DATASET_JSON} and left out, such as {found.unused[0].name}"
        )


def _one_file(path: Path, described: DatasetDescription) -> dict[str, ImageFile]:
    """The channels of one listed file: 4D, or nnU-Net 1's name for `CASE_0000` and its fellows."""
    if not os.path.exists(path):
        ending = ".nii.gz" if path.name.endswith(".gz") else ".nii"
        apart = {
            modality: path.with_name(f"{stem(path.name)}_{channel:04d}{ending}")
            for channel, modality in described.channels.items()
        }
        if any(os.path.exists(file) for file in apart.values()):
            return {modality: ImageFile(file) for modality, file in apart.items()}
    return {modality: ImageFile(path, channel) for channel, modality in described.channels.items()}


def _add_folders(found: Discovery, data_dir: Path, described: DatasetDescription, meaning: LabelMap) -> None:
    endings = ENDINGS if described.file_ending is None else (described.file_ending,)
    images: dict[str, dict[str, list[ImageFile]]] = {}
    labels: dict[str, list[Path]] = {}
    for path in _files(data_dir / LABELS):
        if _has_ending(path, endings):
            labels.setdefault(stem(path.name), []).append(path)
    for path in _files(data_dir / IMAGES):
        if not _has_ending(path, endings):
            found.unused.append(path)
            continue
        match = _CHANNEL.fullmatch(stem(path.name))
        if match is not None:
            modality = described.channels.get(int(match["channel"]))
            case = images.setdefault(match["case"], {})
            if modality is not None:
                case.setdefault(modality, []).append(ImageFile(path))
        elif stem(path.name) in labels:
            for channel, modality in described.channels.items():
                images.setdefault(stem(path.name), {}).setdefault(modality, []).append(ImageFile(path, channel))
        else:
            found.unused.append(path)
    for name in sorted(images.keys() | labels.keys()):
        parts = images.get(name, {})
        for part, several in [*parts.items(), ("segmentation", labels.get(name, []))]:
            if len(several) > 1:
                shown = ", ".join(getattr(one, "path", one).name for one in several)
                found.add_fault(name, f"{part} is there {len(several)} times: {shown}; file_ending says which counts")
        label = labels.get(name, [None])[0]
        first = {modality: several[0] for modality, several in parts.items()}
        found.cases.append(CaseFiles(name, _ordered(first), label, meaning))
    if found.unused:
        found.notes.append(
            f"{len(found.unused)} files are no CASE_0000{endings[0]} and left out, such as {found.unused[0].name}"
        )


def _ordered(images: Mapping[str, ImageFile]) -> dict[str, ImageFile]:
    return {modality: images[modality] for modality in MODALITIES if modality in images}


def _paths(case: CaseFiles) -> Sequence[Path]:
    return [*(image.path for image in case.images.values()), *([case.label] if case.label else [])]


def _other_channel(path: Path, described: DatasetDescription) -> bool:
    match = _CHANNEL.fullmatch(stem(path.name))
    return match is not None and int(match["channel"]) not in described.channels


def _has_ending(path: Path, endings: Sequence[str]) -> bool:
    return (".nii.gz" if path.name.endswith(".nii.gz") else ".nii") in endings


def _files(folder: Path) -> list[Path]:
    """NIfTI files of a folder, sorted, without hidden ones; none where there is no such folder."""
    if not os.path.isdir(folder):
        return []
    try:
        return sorted(path for path in folder.iterdir() if is_nifti(path.name) and not path.name.startswith("."))
    except OSError as error:
        raise InvalidInputError(f"{folder}: cannot be opened ({error.strerror})") from error
