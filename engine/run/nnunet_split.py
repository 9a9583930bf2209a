"""Synthetic cases into an existing nnU-Net data set: into the training part of every fold, never into validation."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidInputError, UsageError
from ..folder import Folder
from ..output.layouts import PREFIX, SEGMENTATION, Layout
from ..output.nifti import renumbered
from .description import MasksDigest, RunDescription, SourceDigest, read_description
from .directory import damaged_files, read_faults
from .ledger import LedgerIndex, SampleRecord
from .manifest import MANIFEST_CSV
from .nnunet_journal import (
    SPLITS_NAME,
    PlannedAddition,
    add_all,
    open_journal,
    owned_in_dataset,
    planned,
    settle_interrupted,
)
from .nnunet_target import Target, cases_of, read_json, read_target

FOLDS = 5
MAX_MASK_BYTES = 64 * 2**20
_SEED = 12345  # of nnU-Net's own folds

Split = dict[str, list[str]]


@dataclass(frozen=True)
class Addition:
    """What was added where."""

    samples: int
    dataset: Path
    splits: Path
    augmented: bool  # made from a real case, which the run does not name

    def notes(self) -> list[str]:
        """What a user should know, a line each."""
        told = []
        if self.splits == (self.dataset / SPLITS_NAME).absolute():
            told.append(
                f"{self.splits}: nnU-Net reads folds in $nnUNet_preprocessed/{self.dataset.resolve().name} alone; "
                "copy them there before you train, or it validates on synthetic cases"
            )
        if self.augmented:
            told.append(
                "the cases are made from a real one (augment): take them out of the folds that validate on it, "
                f"in {self.splits}"
            )
        return told


def check_addition(dataset: Path, splits: Path | None, layout: Layout) -> Target:
    """What `add_to_dataset` would refuse of a data set, found out before a run is made; nothing is written.

    Raises:
        UsageError, InvalidInputError: see `add_to_dataset`.
    """
    target = read_target(dataset, splits, layout)
    _folds(target, {})
    return target


def add_to_dataset(run_directory: Path, dataset: Path, splits: Path | None = None, *, link: bool = False) -> Addition:
    """Add a complete run in nnU-Net layout to the raw data set `dataset`: all of its cases, or, on an error, none.

    `splits` is the data set's `splits_final.json`, by default that in $nnUNet_preprocessed, else one in `dataset`.
    Folds that are there keep their cases; without a file they are those nnU-Net would make of the real cases. Labels
    and channels go by their names in `dataset.json`. The cases are copies, or with `link` hard links where the file
    system has them. What a killed call left is undone or finished first.

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
    layout = run.layout()
    place = read_target(dataset, splits, layout).splits
    with (
        Folder(run_directory) as source,
        Folder(dataset, owned_in_dataset) as folder,
        open_journal(folder) as journal,
    ):
        settle_interrupted(journal, folder, place)
        with read_faults(run_directory):
            records = _intact_records(source, run)
        with read_faults(dataset):
            target = read_target(dataset, splits, layout)
            theirs = {record.sample: target.names(layout, record.sample) for record in records}
            rewritten = _Renumbered(source, target.numbers)
            addition, origins = _plan(folder, run, target, records, theirs, rewritten)
        add_all(addition, journal, source, folder, link=link, origins=origins, rewritten=rewritten)
    return Addition(len(records), dataset, place, isinstance(run.source, SourceDigest))


def _plan(
    folder: Folder,
    run: RunDescription,
    target: Target,
    records: list[SampleRecord],
    theirs: dict[int, dict[str, str]],
    rewritten: _Renumbered,
) -> tuple[PlannedAddition, dict[str, str]]:
    """What the data set, its description and its folds become; and the run's name of each file it gets."""
    layout = run.layout()
    real = frozenset(target.real_cases()) if isinstance(run.source, MasksDigest) else frozenset[str]()
    folds = _folds(target, {layout.case(record.sample): _mask_of(record, real) for record in records})
    origins = {name: layout.path(sample, role) for sample, names in theirs.items() for role, name in names.items()}
    hashes = {entry.path: entry.sha256 for record in records for entry in record.files}
    files = {name: rewritten.sha256(name) or hashes[origin] for name, origin in origins.items()}
    text = json.dumps(_described(target, {layout.case(k): names for k, names in theirs.items()}), indent=2) + "\n"
    return planned(folder, run.id, files, target.splits, json.dumps(folds, indent=4) + "\n", text), origins


def _described(target: Target, cases: dict[str, dict[str, str]]) -> dict[str, Any]:
    """The content of dataset.json with `cases`: names of their files by modality and "seg"."""
    if target.listed is None:
        ours = {case for case in cases_of(target.dataset) if case.startswith(PREFIX)}
        return {**target.described, "numTraining": len(target.real_cases()) + len(ours | cases.keys())}
    listed = target.listed | {case: _listing(names) for case, names in cases.items()}
    return {**target.described, "dataset": listed, "numTraining": len(listed)}


def _mask_of(record: SampleRecord, real: frozenset[str]) -> str | None:
    """The case among `real` whose mask a sample was given by --masks."""
    return next((name for name in (record.id, record.id.rpartition("-")[0]) if name in real), None)


def _folds(target: Target, names: dict[str, str | None]) -> list[Split]:
    """The data set's folds with the new cases `names` in training; a case of a mask is in no fold that validates it.

    `names`: by new case, the real case whose mask it has, if any.
    """
    there = target.splits.exists()
    return _with_synthetic(_read_folds(target.splits) if there else nnunet_folds(target.real_cases()), names)


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


def _with_synthetic(folds: list[Split], names: dict[str, str | None]) -> list[Split]:
    result = []
    for number, fold in enumerate(folds):
        if leaked := [case for case in fold["val"] if case.startswith(PREFIX)]:
            raise InvalidInputError(f"fold {number} validates on the synthetic case {leaked[0]}; take it out")
        known, held_out = set(fold["train"]), set(fold["val"])
        more = [name for name, mask in names.items() if name not in known and mask not in held_out]
        result.append({**fold, "train": [*fold["train"], *more]})
    return result


class _Renumbered:
    """The masks of a run with the numbers of another data set; other files are as they are."""

    def __init__(self, source: Folder, numbers: dict[int, int]) -> None:
        self._source = source
        self._table = np.arange(256, dtype=np.uint8)
        self._table[list(numbers)] = list(numbers.values())
        self._same = np.array_equal(self._table, np.arange(256))

    def sha256(self, name: str) -> str | None:
        """Of what the data set gets; None where that is the run's own file."""
        data = self(name)
        return None if data is None else hashlib.sha256(data).hexdigest()

    def __call__(self, name: str) -> bytes | None:
        """The bytes that the data set gets, None for the run's own; masks have one name in both."""
        if self._same or not name.startswith("labelsTr/"):
            return None
        return renumbered(self._source.read(name, MAX_MASK_BYTES), self._table)


def _listing(names: dict[str, str]) -> dict[str, Any]:
    """A case as `dataset` of dataset.json lists it; `names` of its files by modality and "seg"."""
    images = [path for role, path in names.items() if role != SEGMENTATION]
    return {"images": sorted(images), "label": names[SEGMENTATION]}


def _read_folds(path: Path) -> list[Split]:
    folds = read_json(path)
    shaped = isinstance(folds, list) and all(isinstance(f, dict) and _names_cases(f) for f in folds)
    if not shaped:
        raise InvalidInputError(f'{path}: must be a list of folds with "train" and "val"')
    return folds


def _names_cases(fold: dict[str, Any]) -> bool:
    parts = (fold.get("train"), fold.get("val"))
    return all(isinstance(part, list) and all(isinstance(case, str) for case in part) for part in parts)
