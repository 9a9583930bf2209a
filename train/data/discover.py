"""Which files of a folder belong to which case: BraTS 2020/2021, BraTS 2023 and later, nnU-Net raw data sets."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...engine.bundle.manifest import MODALITIES
from ...engine.errors import InvalidInputError

_BRATS_2021 = re.compile(r"(?P<case>.+)_(?P<part>t1|t1ce|t2|flair|seg)\.nii(\.gz)?", re.IGNORECASE)
_BRATS_2023 = re.compile(r"(?P<case>.+)-(?P<part>t1n|t1c|t2w|t2f|seg)\.nii(\.gz)?", re.IGNORECASE)
_NNUNET_IMAGE = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})\.nii(\.gz)?")
_NIFTI = re.compile(r"(?P<case>.+)\.nii(\.gz)?")

_NAMES_2023 = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
_CHANNEL_NAMES = {
    "t1": ("t1", "t1n", "t1w"),
    "t1ce": ("t1ce", "t1c", "t1gd", "t1wce", "t1post", "t1cet1"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f", "t2flair", "fl"),
}
_LABELS_2021 = {0: 0, 1: 1, 2: 2, 4: 3}
_LABELS_2023 = {0: 0, 1: 1, 2: 2, 3: 3}


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case, not yet opened."""

    name: str
    images: Mapping[str, Path]  # modality -> file
    label: Path | None
    label_values: Mapping[int, int]  # value in the file -> 0 background, 1 NCR, 2 ED, 3 ET


@dataclass
class Discovery:
    """What a folder holds: its cases by name, and what is wrong with its files, case by case."""

    cases: list[CaseFiles] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)

    def add_fault(self, case: str, text: str) -> None:
        self.faults.setdefault(case, []).append(text)


def discover_cases(data_dir: Path, modalities: Sequence[str] = MODALITIES) -> Discovery:
    """Find the cases below `data_dir`, sorted by name.

    A folder with `dataset.json` and `imagesTr` is read as an nnU-Net raw data set; otherwise every file whose name
    follows BraTS 2020/2021 (`CASE_t1ce.nii.gz`) or BraTS 2023 (`CASE-t1c.nii.gz`) is taken, at any depth.
    Files that are missing become faults of their case; a folder without any case raises `InvalidInputError`.
    """
    data_dir = Path(data_dir)
    unknown = [name for name in modalities if name not in MODALITIES]
    if unknown:
        raise InvalidInputError(f"unknown modality {', '.join(unknown)}; there are {', '.join(MODALITIES)}")
    if not data_dir.is_dir():
        raise InvalidInputError(f"{data_dir}: not a directory; give the folder that holds the cases")
    if (data_dir / "dataset.json").is_file() and (data_dir / "imagesTr").is_dir():
        found = _discover_nnunet(data_dir)
    else:
        found = _discover_brats(data_dir)
    if not found.cases:
        raise InvalidInputError(
            f"{data_dir}: no case found; expected CASE_t1ce.nii.gz (BraTS 2020/2021), CASE-t1c.nii.gz (BraTS 2023 and "
            "later), or an nnU-Net raw data set (dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz)"
        )
    for case in found.cases:
        missing = [name for name in modalities if name not in case.images]
        if missing:
            found.add_fault(case.name, f"missing modality {', '.join(missing)} (there: {_list(case.images)})")
        if case.label is None:
            found.add_fault(case.name, "missing segmentation")
    return found


def _list(names: Mapping[str, Path]) -> str:
    return ", ".join(names) if names else "none"


def _walk(data_dir: Path) -> list[Path]:
    files: list[Path] = []
    for folder, children, names in os.walk(data_dir, followlinks=True):
        children[:] = sorted(name for name in children if not name.startswith("."))
        files += [Path(folder) / name for name in names if not name.startswith(".")]
    return sorted(files)


def _discover_brats(data_dir: Path) -> Discovery:
    found = Discovery()
    parts: dict[tuple[str, bool], dict[str, list[Path]]] = {}
    for path in _walk(data_dir):
        recent = _BRATS_2023.fullmatch(path.name)
        match = recent or _BRATS_2021.fullmatch(path.name)
        if match is None:
            continue
        part = match["part"].lower()
        part = _NAMES_2023.get(part, part)
        parts.setdefault((match["case"], recent is not None), {}).setdefault(part, []).append(path)
    for (name, is_recent), files in sorted(parts.items()):
        for part, paths in files.items():
            if len(paths) > 1:
                shown = ", ".join(str(path.relative_to(data_dir)) for path in paths)
                found.add_fault(name, f"{part} is there {len(paths)} times: {shown}")
        images = {modality: files[modality][0] for modality in MODALITIES if modality in files}
        label = files["seg"][0] if "seg" in files else None
        found.cases.append(CaseFiles(name, images, label, _LABELS_2023 if is_recent else _LABELS_2021))
    return found


def _discover_nnunet(data_dir: Path) -> Discovery:
    found = Discovery()
    description = _read_dataset_json(data_dir / "dataset.json")
    channels = _channels(data_dir / "dataset.json", description)
    values = _label_values(data_dir / "dataset.json", description)
    images: dict[str, dict[str, Path]] = {}
    for path in sorted((data_dir / "imagesTr").iterdir()):
        match = _NNUNET_IMAGE.fullmatch(path.name)
        if match is None:
            continue
        modality = channels.get(int(match["channel"]))
        case = images.setdefault(match["case"], {})
        if modality is not None:
            case[modality] = path
    labels: dict[str, Path] = {}
    if (data_dir / "labelsTr").is_dir():
        for path in sorted((data_dir / "labelsTr").iterdir()):
            match = _NIFTI.fullmatch(path.name)
            if match is not None:
                labels[match["case"]] = path
    for name in sorted(images.keys() | labels.keys()):
        ordered = {key: images[name][key] for key in MODALITIES if key in images.get(name, {})}
        found.cases.append(CaseFiles(name, ordered, labels.get(name), values))
    return found


def _read_dataset_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{path}: must hold a JSON object with channel_names and labels")
    return content


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _channels(path: Path, description: Mapping[str, Any]) -> dict[int, str]:
    """Channel number -> modality, from `channel_names` (nnU-Net v2) or `modality` (v1)."""
    names = description.get("channel_names", description.get("modality"))
    if not isinstance(names, dict):
        raise InvalidInputError(f'{path}: needs "channel_names", such as {{"0": "T1", "1": "T1ce", "2": "T2"}}')
    channels: dict[int, str] = {}
    for number, name in names.items():
        for modality, spellings in _CHANNEL_NAMES.items():
            if _plain(str(name)) in spellings:
                channels[int(number)] = modality
    if not channels:
        raise InvalidInputError(
            f"{path}: no channel is named as a modality of ours; got {', '.join(map(str, names.values()))}, "
            f"known spellings: {', '.join(name for group in _CHANNEL_NAMES.values() for name in group)}"
        )
    return channels


def _label_values(path: Path, description: Mapping[str, Any]) -> dict[int, int]:
    """Value in the file -> our label, from the names under `labels`.

    Plain labels go by their name (necrosis, oedema, enhancing); nested regions (whole tumour, core, enhancing) by
    their differences: oedema = whole - core, necrosis = core - enhancing.  A data set with one foreground label is
    binary; its tumour becomes label 1.
    """
    labels = description.get("labels")
    if not isinstance(labels, dict):
        raise InvalidInputError(f'{path}: needs "labels", such as {{"background": 0, "necrosis": 1, "edema": 2}}')
    if all(str(key).isdigit() for key in labels):
        labels = {str(name): int(number) for number, name in labels.items()}
    regions = {str(name): set(value) if isinstance(value, list) else {int(value)} for name, value in labels.items()}
    foreground = {name: values for name, values in regions.items() if values - {0}}
    every = set().union(*foreground.values()) - {0} if foreground else set()
    if len(every) == 1:
        return {0: 0, every.pop(): 1}
    if any(len(values) > 1 for values in foreground.values()):
        nested = sorted(foreground.values(), key=len)
        if len(nested) == 3 and nested[0] < nested[1] < nested[2]:
            enhancing, core, whole = nested
            mapping = dict.fromkeys(whole - core, 2) | dict.fromkeys(core - enhancing, 1) | dict.fromkeys(enhancing, 3)
            return {0: 0} | mapping
    else:
        mapping = {next(iter(values)): _tissue(name) for name, values in foreground.items()}
        if None not in mapping.values() and len(set(mapping.values())) == len(mapping):
            return {0: 0} | {value: label for value, label in mapping.items() if label is not None}
    raise InvalidInputError(
        f"{path}: cannot tell which label is which tissue from {json.dumps(description['labels'])}; name them "
        "necrosis, edema and enhancing, or give the three nested regions whole tumour, tumour core and enhancing tumour"
    )


def _tissue(name: str) -> int | None:
    plain = _plain(name)
    if plain in ("ncr", "net", "ncrnet") or any(word in plain for word in ("necro", "nonenh", "core")):
        return 1
    if plain == "ed" or "edema" in plain or "oedema" in plain:
        return 2
    if plain == "et" or "enhanc" in plain:
        return 3
    return None
