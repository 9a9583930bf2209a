"""Synthetic cases into an existing nnU-Net data set: into the training part of every fold, never into validation."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInputError, UsageError
from ..files import Folder, read_bounded
from ..output.layouts import SEGMENTATION, case_name
from ..output.nifti import renumbered
from ..scans.names import modality_of
from ..scans.target_labels import renumbering
from .description import RunDescription, read_description
from .directory import damaged_files, read_faults
from .ledger import LedgerIndex, SampleRecord
from .manifest import MANIFEST_CSV, dataset_files
from .nnunet_journal import (
    DATASET_NAME,
    MAX_JSON_BYTES,
    SPLITS_NAME,
    PlannedAddition,
    add_all,
    open_journal,
    owned_in_dataset,
    planned,
    settle_interrupted,
)

FOLDS = 5
MAX_MASK_BYTES = 64 * 2**20
_SEED = 12345  # of nnU-Net's own folds
_PREFIX = "sbldm-"  # of synthetic cases

Split = dict[str, list[str]]


@dataclass(frozen=True)
class Addition:
    """What was added where."""

    samples: int
    dataset: Path
    splits: Path


def add_to_dataset(run_directory: Path, dataset: Path, splits: Path | None = None, *, link: bool = False) -> Addition:
    """Add a complete run in nnU-Net layout to the raw data set `dataset`: all of its cases, or, on an error, none.

    `splits` is the data set's `splits_final.json`, by default that in $nnUNet_preprocessed, else one in `dataset`.
    Folds that are there keep their cases; without a file they are those nnU-Net would make of the real cases. The
    cases are copies, or with `link` hard links where the file system has them. What a killed call left is undone or
    finished first.

    Raises:
        UsageError: the run is not in nnU-Net layout or not complete, or the data sets do not fit.
        InvalidInputError: the data set or its folds cannot be read, or the run's files changed.
        IncompleteRunError: the disk is full or refuses; the data set is as it was, or the message says what to do.
    """
    run = read_description(run_directory)
    if run.options.layout != "nnunet":
        raise UsageError(f"{run_directory}: is in {run.options.layout} layout; make the run with --layout nnunet")
    if not (run_directory / MANIFEST_CSV).exists():
        raise UsageError(f"{run_directory}: is not complete (no {MANIFEST_CSV}); finish or merge it first")
    place = (splits or _default_splits(dataset)).absolute()
    numbers = _fitting_numbers(
        _read_json(dataset / DATASET_NAME), json.loads(dataset_files(run, ())[DATASET_NAME]), dataset
    )
    with (
        Folder(run_directory) as source,
        Folder(dataset, owned_in_dataset) as target,
        open_journal(target) as journal,
    ):
        settle_interrupted(journal, target, place)
        with read_faults(run_directory):
            records = _intact_records(source, run)
        rewritten = _Renumbered(source, run, numbers)
        with read_faults(dataset):
            addition = _plan(target, run, records, place, rewritten)
        add_all(addition, journal, source, target, link=link, rewritten=rewritten)
    return Addition(len(records), dataset, place)


def _plan(
    target: Folder, run: RunDescription, records: list[SampleRecord], splits: Path, rewritten: _Renumbered
) -> PlannedAddition:
    """What the data set, its description and its folds become."""
    dataset = target.root
    described = _read_json(dataset / DATASET_NAME)
    listed = described.get("dataset")
    real = [case for case in (_cases(dataset) if listed is None else listed) if not case.startswith(_PREFIX)]
    names = [case_name(record.sample) for record in records]
    folds = _with_synthetic(_read_folds(splits) if splits.exists() else nnunet_folds(real), names)
    if listed is None:
        described["numTraining"] = len(real) + len({*_synthetic_cases(dataset), *names})
    else:
        described["dataset"] = listed | {case_name(r.sample): _listing(run, r.sample) for r in records}
        described["numTraining"] = len(described["dataset"])
    files = {entry.path: entry.sha256 for record in records for entry in record.files}
    files |= {name: hashlib.sha256(rewritten(name) or b"").hexdigest() for name in files if rewritten.changes(name)}
    return planned(
        target, run.id, files, splits, json.dumps(folds, indent=4) + "\n", json.dumps(described, indent=2) + "\n"
    )


def _intact_records(source: Folder, run: RunDescription) -> list[SampleRecord]:
    """The good samples of a run whose ledger and files are as they were written."""
    index = LedgerIndex.of_folder(source, run)
    if index.faults:
        raise InvalidInputError(f"{source.root / index.faults[0]}; go on with --resume")
    records = [record for record in index.records() if record.fault is None]
    for record in records:
        for path, how in damaged_files(source, run, record):
            raise InvalidInputError(f"{source.root / path}: is {how}; go on with --resume")
    return records


def nnunet_folds(cases: list[str]) -> list[Split]:
    """The five folds that nnU-Net makes of these cases (scikit-learn's KFold, shuffled with seed 12345).

    Raises:
        UsageError: fewer cases than folds.
    """
    if len(cases) < FOLDS:
        raise UsageError(
            f"the data set has {len(cases)} cases, {FOLDS} folds need at least {FOLDS}; give your own --splits"
        )
    ordered = sorted(cases)
    shuffled = np.arange(len(ordered))
    np.random.RandomState(_SEED).shuffle(shuffled)  # the generator is nnU-Net's
    folds: list[Split] = []
    for part in np.array_split(shuffled, FOLDS):
        held_out = set(part.tolist())
        validation = [case for k, case in enumerate(ordered) if k in held_out]
        folds.append({"train": [case for k, case in enumerate(ordered) if k not in held_out], "val": validation})
    return folds


def _with_synthetic(folds: list[Split], names: list[str]) -> list[Split]:
    result = []
    for number, fold in enumerate(folds):
        if leaked := [case for case in fold["val"] if case.startswith(_PREFIX)]:
            raise InvalidInputError(f"fold {number} validates on the synthetic case {leaked[0]}; take it out")
        known = set(fold["train"])
        result.append({**fold, "train": [*fold["train"], *(name for name in names if name not in known)]})
    return result


class _Renumbered:
    """The masks of a run with the numbers of another data set; other files are as they are."""

    def __init__(self, source: Folder, run: RunDescription, numbers: dict[int, int]) -> None:
        self._source = source
        self._table = np.arange(256, dtype=np.uint8)
        self._table[list(numbers)] = list(numbers.values())
        self._folder = run.layout().path(0, SEGMENTATION).rpartition("/")[0] + "/"

    def changes(self, name: str) -> bool:
        """Whether the data set gets other bytes than the run has."""
        return name.startswith(self._folder) and not np.array_equal(self._table, np.arange(256))

    def __call__(self, name: str) -> bytes | None:
        """The bytes that the data set gets, None for the run's own."""
        if not self.changes(name):
            return None
        return renumbered(self._source.read(name, MAX_MASK_BYTES), self._table)


def _listing(run: RunDescription, sample: int) -> dict[str, Any]:
    """A case as `dataset` of dataset.json lists it."""
    paths = run.layout().paths(sample)
    return {"images": [path for role, path in paths.items() if role != SEGMENTATION], "label": paths[SEGMENTATION]}


def _fitting_numbers(target: Any, ours: dict[str, Any], dataset: Path) -> dict[int, int]:
    """Our label -> the data set's; UsageError where channels, labels or file endings do not fit."""
    if not isinstance(target, dict):
        raise InvalidInputError(f"{dataset / DATASET_NAME}: must be a JSON object, as nnU-Net has it")
    listed = target.get("dataset")
    if listed is not None and not isinstance(listed, dict):
        raise InvalidInputError(f"{dataset / DATASET_NAME}: dataset: must be an object of cases, as nnU-Net has it")
    for key in ("channel_names", "file_ending"):
        theirs = target.get(key)
        same = theirs == ours[key]
        if key == "channel_names" and isinstance(theirs, dict):
            same = {k: modality_of(str(v)) for k, v in theirs.items()} == {
                k: modality_of(v) for k, v in ours[key].items()
            }
        if not same:
            raise UsageError(
                f"{dataset / DATASET_NAME}: {key} is {theirs}, the synthetic cases have {ours[key]}; they must agree"
            )
    return renumbering(target, ours["labels"], dataset / DATASET_NAME)


def _default_splits(dataset: Path) -> Path:
    root = os.environ.get("nnUNet_preprocessed")  # noqa: SIM112 - the name is nnU-Net's
    return (Path(root) / dataset.resolve().name if root else dataset) / SPLITS_NAME


def _cases(dataset: Path) -> list[str]:
    folder = dataset / "labelsTr"
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such folder; give the raw data set of nnU-Net")
    return sorted(path.name.removesuffix(".nii.gz") for path in folder.iterdir() if path.name.endswith(".nii.gz"))


def _synthetic_cases(dataset: Path) -> list[str]:
    return [case for case in _cases(dataset) if case.startswith(_PREFIX)]


def _read_folds(path: Path) -> list[Split]:
    folds = _read_json(path)
    shaped = isinstance(folds, list) and all(isinstance(f, dict) and _names_cases(f) for f in folds)
    if not shaped:
        raise InvalidInputError(f'{path}: must be a list of folds with "train" and "val"')
    return folds


def _names_cases(fold: dict[str, Any]) -> bool:
    parts = (fold.get("train"), fold.get("val"))
    return all(isinstance(part, list) and all(isinstance(case, str) for case in part) for part in parts)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_bounded(path, MAX_JSON_BYTES))
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}: not valid JSON ({error})") from error
