"""`dataset.json` as nnU-Net (1 and 2) and the Medical Segmentation Decathlon write it, every type checked."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InvalidInputError
from .bounded import MAX_JSON_BYTES, UnusableFileError, read_regular
from .labels import MAX_VALUE, LabelMap, labels_by_name
from .names import CHANNEL_NAMES, modality_of

DATASET_JSON = "dataset.json"
ENDINGS = (".nii.gz", ".nii")
MAX_NAME = 200  # characters of a case's name


@dataclass(frozen=True)
class ListedCase:
    """The files of a case as `dataset.json` lists them, relative to its folder."""

    images: tuple[str, ...]  # one a channel, or one 4D file
    label: str | None


@dataclass(frozen=True)
class DatasetDescription:
    """What `dataset.json` says of its data set."""

    path: Path
    channels: Mapping[int, str]  # channel number -> modality of ours; other channels are left out
    named_labels: Mapping[str, frozenset[int]]  # name -> value, or values of a region
    file_ending: str | None  # None: not said, as nnU-Net 1
    listed: Mapping[str, ListedCase] | None  # what takes the place of imagesTr and labelsTr

    def meaning(self) -> LabelMap:
        """What the values of its masks mean; InvalidInputError where the names do not tell."""
        return labels_by_name(self.named_labels, f"{self.path}: labels")


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object from a regular file of bounded size; InvalidInputError names the file."""
    try:
        content = json.loads(read_regular(path, MAX_JSON_BYTES), object_pairs_hook=_no_doubles)
    except UnusableFileError as error:
        raise InvalidInputError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{path}: must hold a JSON object with channel_names and labels")
    return content


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} is there twice")
    return dict(pairs)


def read_dataset_json(path: Path) -> DatasetDescription:
    """Read and check the description of a data set.

    Raises:
        InvalidInputError: `file: key: what is wrong, what is allowed`.
    """
    content = load_json(path)
    ending = content.get("file_ending")
    if ending is not None and ending not in ENDINGS:
        _refuse(path, "file_ending", ending, f"one of {', '.join(ENDINGS)}; convert other files to NIfTI")
    return DatasetDescription(
        path, _channels(path, content), parse_label_values(path, content.get("labels")), ending, _listed(path, content)
    )


def _refuse(path: Path, key: str, value: Any, allowed: str) -> NoReturn:
    shown = repr(value)
    raise InvalidInputError(f"{path}: {key}: is {shown[:80] + '...' * (len(shown) > 80)}; must be {allowed}")


def _channels(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    """Channel number -> modality, from `channel_names` (nnU-Net 2) or `modality` (1); keys that are no numbers count
    by their order, as nnU-Net counts them."""
    key = "channel_names" if "channel_names" in content else "modality"
    names = content.get(key)
    example = 'an object such as {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}'
    if not isinstance(names, dict) or not names:
        _refuse(path, "channel_names", names, example)
    by_number = all(number.isascii() and number.isdigit() and len(number) <= 4 for number in names)
    channels: dict[int, str] = {}
    for place, (number, name) in enumerate(names.items()):
        if not isinstance(name, str):
            _refuse(path, f"{key}: {number}", name, "the name of a channel")
        modality = modality_of(name)
        if modality is None:
            continue
        if modality in channels.values():
            _refuse(path, f"{key}: {number}", name, f"another modality than the channel before; {modality} is there")
        channels[int(number) if by_number else place] = modality
    if not channels:
        raise InvalidInputError(
            f"{path}: {key}: no channel is named as a modality of ours; "
            f"got {', '.join(map(str, names.values()))[:200]}, "
            f"known spellings: {', '.join(name for group in CHANNEL_NAMES.values() for name in group)}"
        )
    return channels


def parse_label_values(path: Path, labels: Any) -> dict[str, frozenset[int]]:
    """Name -> values, from `labels` of nnU-Net 2 (name: number or list) or 1 (number: name).

    Raises:
        InvalidInputError: the key and what is allowed there.
    """
    example = 'an object such as {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}'
    if not isinstance(labels, dict) or not labels:
        _refuse(path, "labels", labels, example)
    if all(isinstance(name, str) and _whole(number) is not None for number, name in labels.items()):
        numbers = {number: _whole(number) for number in labels}
        labels = {name: numbers[number] for number, name in labels.items() if _whole(name) is None} or labels
        if len(labels) < len(numbers):
            _refuse(path, "labels", list(numbers), "a name of its own for each number")
    result: dict[str, frozenset[int]] = {}
    for name, value in labels.items():
        several = value if isinstance(value, list) else [value]
        values = [_whole(one) for one in several]
        if not values or None in values:
            _refuse(path, f"labels: {name}", value, f"a whole number from 0 to {MAX_VALUE}, or a list of them")
        result[name] = frozenset(one for one in values if one is not None)
    return result


def _whole(value: Any) -> int | None:
    """A label's number, also written as text or as 3.0, as nnU-Net takes it; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and not (value.isascii() and len(value) <= 12):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and 0 <= number <= MAX_VALUE else None


def _listed(path: Path, content: Mapping[str, Any]) -> dict[str, ListedCase] | None:
    """Cases of `dataset` (nnU-Net 2) or `training` (nnU-Net 1, Decathlon); None where the folders decide."""
    if content.get("dataset") is not None:
        return _listed_v2(path, content["dataset"])
    if "channel_names" not in content and content.get("training") is not None:
        return _listed_v1(path, content["training"])
    return None


def _listed_v2(path: Path, cases: Any) -> dict[str, ListedCase]:
    if not isinstance(cases, dict):
        _refuse(path, "dataset", cases, 'an object of cases, {"CASE": {"images": [...], "label": "..."}}')
    listed: dict[str, ListedCase] = {}
    for name, case in cases.items():
        where = f"dataset: {name}"
        if not isinstance(case, dict):
            _refuse(path, where, case, 'an object {"images": [...], "label": "..."}')
        _require_name(path, "dataset", name)
        images, label = case.get("images"), case.get("label")
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            _refuse(path, f"{where}: images", images, "a list of files")
        if label is not None and not isinstance(label, str):
            _refuse(path, f"{where}: label", label, "a file")
        _require_paths(path, where, *images, label)
        listed[name] = ListedCase(tuple(images), label)
    return listed


def _require_name(path: Path, where: str, name: str) -> None:
    """Files are named after a case: its name must be able to stand in a folder, and stay there."""
    is_plain = name.isprintable() and name == name.strip() and not name.startswith(".") and not {*name} & {*"/\\"}
    if not is_plain or not 0 < len(name) <= MAX_NAME:
        _refuse(path, f"{where}: case", name, f"a name of 1 to {MAX_NAME} printable characters without / and \\")


def _require_paths(path: Path, where: str, *names: str | None) -> None:
    for name in names:
        try:
            usable = name is None or b"\0" not in os.fsencode(name)
        except UnicodeEncodeError:
            usable = False
        if not usable:
            _refuse(path, f"{where}: file", name, "the name of a file")


def _listed_v1(path: Path, cases: Any) -> dict[str, ListedCase]:
    if not isinstance(cases, list):
        _refuse(path, "training", cases, 'a list of {"image": "...", "label": "..."}')
    listed: dict[str, ListedCase] = {}
    for place, case in enumerate(cases):
        where = f"training: {place}"
        if not isinstance(case, dict) or not isinstance(case.get("image"), str):
            _refuse(path, where, case, 'an object {"image": "...", "label": "..."}')
        label = case.get("label")
        if label is not None and not isinstance(label, str):
            _refuse(path, f"{where}: label", label, "a file")
        _require_paths(path, where, case["image"], label)
        name = Path(label or case["image"]).name.removesuffix(".gz").removesuffix(".nii")
        _require_name(path, where, name)
        if name in listed:
            _refuse(path, where, case["image"], f"each case once; {name} is listed already")
        listed[name] = ListedCase((case["image"],), label)
    return listed
