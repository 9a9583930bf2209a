"""Synthetic cases into an existing nnU-Net data set: into the training part of every fold, never into validation."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInputError, UsageError
from ..files import write_atomic
from ..output.layouts import case_name
from .description import read_description
from .directory import damaged_files, disk_faults
from .ledger import LedgerIndex
from .manifest import MANIFEST_CSV
from .merge import link_or_copy

FOLDS = 5
SPLITS_NAME = "splits_final.json"
_SEED = 12345  # of nnU-Net's own folds
_DATASET_NAME = "dataset.json"
_PREFIX = "sbldm-"  # of synthetic cases

Split = dict[str, list[str]]


@dataclass(frozen=True)
class Addition:
    """What was added where."""

    samples: int
    dataset: Path
    splits: Path


def add_to_dataset(run_directory: Path, dataset: Path, splits: Path | None = None) -> Addition:
    """Add a complete run in nnU-Net layout to the raw data set `dataset`.

    `splits` is the data set's `splits_final.json`, by default that in $nnUNet_preprocessed, else one in `dataset`.
    Folds that are there keep their cases; without a file they are those nnU-Net would make of the real cases.

    Raises:
        UsageError: the run is not in nnU-Net layout or not complete, or the data sets do not fit.
        InvalidInputError: the data set or its folds cannot be read.
        IncompleteRunError: the disk is full; the same can be done again.
    """
    run = read_description(run_directory)
    if run.options.layout != "nnunet":
        raise UsageError(f"{run_directory}: is in {run.options.layout} layout; make the run with --layout nnunet")
    if not (run_directory / MANIFEST_CSV).exists():
        raise UsageError(f"{run_directory}: is not complete (no {MANIFEST_CSV}); finish or merge it first")
    described = _read_json(dataset / _DATASET_NAME)
    _require_fit(described, _read_json(run_directory / _DATASET_NAME), dataset)
    place = splits or _default_splits(dataset)
    real = _real_cases(dataset)
    records = [record for record in LedgerIndex.of(run_directory).records() if record.fault is None]
    names = [case_name(record.sample) for record in records]
    folds = _with_synthetic(_read_folds(place) if place.exists() else nnunet_folds(real), names)
    _require_free(run_directory, dataset, [entry.path for record in records for entry in record.files])
    with disk_faults(dataset):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, (json.dumps(folds, indent=4) + "\n").encode())
        for record in records:
            if damaged := damaged_files(run_directory, record):
                raise InvalidInputError(f"{run_directory / damaged[0][0]}: is {damaged[0][1]}; run --resume")
            for entry in record.files:
                link_or_copy(run_directory / entry.path, dataset / entry.path, dataset)
        described["numTraining"] = len(real) + len(_synthetic_cases(dataset))
        write_atomic(dataset / _DATASET_NAME, (json.dumps(described, indent=2) + "\n").encode())
    return Addition(len(records), dataset, place)


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


def _require_fit(target: dict[str, Any], ours: dict[str, Any], dataset: Path) -> None:
    for key in ("channel_names", "labels", "file_ending"):
        theirs = target.get(key)
        same = theirs == ours[key]
        if key == "labels" and isinstance(theirs, dict):
            same = sorted(map(str, theirs.values())) == sorted(map(str, ours[key].values()))
        if key == "channel_names" and isinstance(theirs, dict):
            same = {k: str(v).lower() for k, v in theirs.items()} == {k: v.lower() for k, v in ours[key].items()}
        if not same:
            raise UsageError(
                f"{dataset / _DATASET_NAME}: {key} is {theirs}, the synthetic cases have {ours[key]}; they must agree"
            )


def _require_free(run_directory: Path, dataset: Path, names: list[str]) -> None:
    for name in names:
        target = dataset / name
        if target.exists() and target.read_bytes() != (run_directory / name).read_bytes():
            raise UsageError(f"{target}: belongs to another run; add each run to a data set of its own")


def _default_splits(dataset: Path) -> Path:
    root = os.environ.get("nnUNet_preprocessed")  # noqa: SIM112 - the name is nnU-Net's
    return (Path(root) / dataset.resolve().name if root else dataset) / SPLITS_NAME


def _cases(dataset: Path) -> list[str]:
    folder = dataset / "labelsTr"
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such folder; give the raw data set of nnU-Net")
    return sorted(path.name.removesuffix(".nii.gz") for path in folder.iterdir() if path.name.endswith(".nii.gz"))


def _real_cases(dataset: Path) -> list[str]:
    return [case for case in _cases(dataset) if not case.startswith(_PREFIX)]


def _synthetic_cases(dataset: Path) -> list[str]:
    return [case for case in _cases(dataset) if case.startswith(_PREFIX)]


def _read_folds(path: Path) -> list[Split]:
    folds = _read_json(path)
    shaped = isinstance(folds, list) and all(isinstance(f, dict) and {"train", "val"} <= f.keys() for f in folds)
    if not shaped:
        raise InvalidInputError(f'{path}: must be a list of folds with "train" and "val"')
    return folds


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InvalidInputError(f"{path}: not valid JSON ({error})") from error
