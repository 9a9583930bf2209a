"""The directory of a run: opened, locked, gone on with after a kill, closed with its manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import IncompleteRunError, InvalidInputError, UsageError
from ..events import every_few_seconds
from ..files import FULL, make_directory
from ..folder import Folder
from ..locked_files import LockedFile
from ..new_files import modes
from .description import RUN_NAME, NotARunError, RunDescription, differences, read_description
from .ledger import Ledger, LedgerIndex, SampleRecord, Shard, ledger_names, lock_ledger
from .manifest import MANIFEST_CSV, write_manifest
from .outcomes import Outcomes
from .owned import OwnNames, comes_before_the_run, run_folder
from .selection import Remaining, Selection


def recorded_run(directory: Path, resume: bool, shard: Shard) -> RunDescription | None:
    """What is already in the output directory: None for a run yet to be started. Nothing is written.

    A shard may join the run of its fellows in one directory as long as it has no ledger there.

    Raises:
        UsageError: the directory holds files and is not to be resumed, is none, or holds what is no run.
        InvalidInputError: its run.json is damaged.
    """
    if not os.path.lexists(directory):
        return None
    if not directory.is_dir():
        raise UsageError(f"--out {directory}: is a file; give a new or empty directory")
    try:
        names = {p.name for p in directory.iterdir()}
    except OSError as error:
        raise UsageError(f"--out {directory}: cannot be read ({error.strerror})") from error
    started = RUN_NAME in names
    joins = shard.count > 1 and started and shard.ledger_name not in names
    if names and not resume and not joins:
        raise UsageError(
            f"--out {directory}: holds files already; give a new or empty directory, or go on with its run by --resume"
        )
    if not started:
        require_no_foreign(directory, names)
        return None
    try:
        return read_description(directory)
    except NotARunError as error:
        raise UsageError(f"{error}. Nothing was touched; give a new or empty --out") from error


def require_no_foreign(directory: Path, names: set[str]) -> None:
    """UsageError where a directory without run.json holds anything that a run does not make before it."""
    foreign = sorted(name for name in names if not comes_before_the_run(name))
    if foreign:
        raise UsageError(
            f"--out {directory}: holds {foreign[0]!r} and no {RUN_NAME}, so it is no run of sbldm-engine; "
            "nothing in it was touched; give a new or empty directory"
        )


def require_same(directory: Path, recorded: RunDescription, wanted: RunDescription) -> None:
    """UsageError naming each difference between the run on disk and the one asked for."""
    found = differences(recorded, wanted)
    if found:
        listed = "\n  ".join(found)
        raise UsageError(
            f"--out {directory}: cannot go on with this run, it differs:\n  {listed}\n"
            "Give the run's own options, or another --out."
        )


class RunDirectory:
    """An open run: the ledger is locked, what is left of a kill is cleared. Use as a context manager.

    Files of a complete run are trusted by size and time; those of any other, and all with `verify_files`, are hashed.
    """

    def __init__(
        self, directory: Path, run: RunDescription, selection: Selection, *, verify_files: bool = False
    ) -> None:
        self.directory, self.run, self.selection = directory, run, selection
        self._verify_files = verify_files
        self._owns = OwnNames(run)
        self._others: list[LockedFile] = []
        self.done = 0
        self.changed: list[int] = []  # samples whose files are missing or changed since they were recorded
        self.ledger_faults: list[str] = []  # ledger lines that count as not written, each with its reason
        self.todo = Remaining(selection, frozenset())

    def __enter__(self) -> RunDirectory:
        with disk_faults(self.directory, started=False):
            make_directory(self.directory, modes(self.run.is_derived)[1])
            self.folder = run_folder(self.directory, self.run)
            self._start()
            self.run = read_description(self.directory)  # of the process that was first
            self._ledger = Ledger(self.folder, self.selection.shard.ledger_name, self.run)
            self._ledger.__enter__()
            try:
                self._lock_shards()
                self._survey()
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        for other in self._others:
            other.close()
        self._others = []
        self._ledger.__exit__()
        self.folder.close()

    def record(self, record: SampleRecord) -> None:
        """Append to the ledger; OSError when the disk is full."""
        self._ledger.append(record)

    def close_complete(self) -> Outcomes:
        """Tidy the ledger, write the manifest of a run that is not split; how the selected samples came out.

        Raises:
            IncompleteRunError: a selected sample is recorded nowhere, or the disk refuses.
        """
        with disk_faults(self.directory):
            self.clear_leftovers()  # of workers that died in this run
            self._ledger.tidy()
            index = LedgerIndex.of_folder(self.folder, self.run)
            made = self._selected(index)
            if absent := len(self.selection) - len(made):
                first = next(sample for sample in self.selection if sample not in index.places)
                raise IncompleteRunError(
                    f"{self.directory}: {absent} samples were not made, the first is {first}; go on with --resume"
                )
            if self.selection.shard.count == 1:
                write_manifest(self.folder, self.run, index)
            return Outcomes.of(index.records(made))

    def clear_leftovers(self) -> None:
        """Remove the temporary files of this shard's samples."""
        whole = self.selection.shard.count == 1

        def mine(name: str) -> bool:
            sample = self._owns.sample_of(name)
            return whole if sample is None else self.selection.owns(sample)

        self.folder.clear_temporaries(mine)

    def _start(self) -> None:
        if not self.folder.has(RUN_NAME):
            require_no_foreign(self.directory, set(self.folder.names()))
        if not self.folder.create(RUN_NAME, self.run.to_bytes()):
            require_same(self.directory, read_description(self.directory), self.run)

    def _lock_shards(self) -> None:
        if self.selection.shard.count > 1:
            return
        for name in ledger_names(self.folder):
            if name != self.selection.shard.ledger_name:
                self._others.append(lock_ledger(self.folder, name))

    def _survey(self) -> None:
        self.clear_leftovers()
        index = LedgerIndex.of_folder(self.folder, self.run)
        self.ledger_faults = index.told_faults()
        tell = every_few_seconds()
        recorded = self._selected(index)
        written = self._closed_at(index, len(recorded) == len(self.selection))
        good: set[int] = set()
        for number, record in enumerate(index.records(recorded)):
            tell(f"looked at {number} of {len(recorded)} samples that were made before")
            if record.fault is None and not damaged_files(self.folder, self.run, record, written):
                good.add(record.sample)
            elif record.fault is None:
                self.changed.append(record.sample)
        self.todo = Remaining(self.selection, good)
        self.done = len(good)
        if self.todo:
            self.folder.remove(MANIFEST_CSV)

    def _selected(self, index: LedgerIndex) -> list[int]:
        """The recorded samples of the selection, sorted."""
        return sorted(sample for sample in index.places if sample in self.selection)

    def _closed_at(self, index: LedgerIndex, all_recorded: bool) -> int | None:
        """When a complete run was closed, ns of its manifest's time; None for one whose files must be hashed."""
        manifest = self.folder.status(MANIFEST_CSV)
        if self._verify_files or manifest is None or index.faults or not all_recorded:
            return None
        return manifest.st_mtime_ns


def damaged_files(
    folder: Folder, run: RunDescription, record: SampleRecord, trusted_until: int | None = None
) -> list[tuple[str, str]]:
    """(path, "missing" or "changed") of the files of a record that are not as they were written.

    A file of the right size that was last written before `trusted_until` (ns) is not hashed.
    """
    found = []
    paths = run.layout().paths(record.sample).values()
    for path, entry in zip(paths, record.files, strict=True):
        try:
            status = folder.status(path)
            if status is None:
                found.append((path, "missing"))
            elif status.st_size != entry.bytes or not (
                (trusted_until is not None and status.st_mtime_ns <= trusted_until)
                or folder.sha256(path) == entry.sha256
            ):
                found.append((path, "changed"))
        except OSError:
            found.append((path, "missing"))
    return found


@contextmanager
def disk_faults(directory: Path, *, started: bool = True) -> Iterator[None]:
    """System errors of writing as errors of ours: a run that was started can be resumed.

    Raises:
        IncompleteRunError: the run was started, or no room is left.
        UsageError: the directory refuses before the start.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise IncompleteRunError(
                f"{directory}: no room left on the disk; make room and go on with --resume"
            ) from error
        reason = error.strerror or str(error)
        if started:
            raise IncompleteRunError(
                f"{directory}: cannot be written ({reason}); mend that and go on with --resume"
            ) from error
        raise UsageError(f"{directory}: cannot be written ({reason}); give another --out") from error


@contextmanager
def read_faults(directory: Path) -> Iterator[None]:
    """System errors of reading a directory that somebody gave as errors of ours.

    Raises:
        InvalidInputError: it cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise InvalidInputError(f"{directory}: cannot be read ({error.strerror or error})") from error
