"""The directory of a run: opened, locked, gone on with after a kill, closed with its manifest."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import IncompleteRunError, UsageError
from ..files import FULL, clear_temporaries, create_exclusively, sha256_file, sync_folder
from ..locks import FileLock
from ..output.layouts import owner
from .description import RUN_NAME, RunDescription, differences, read_description
from .ledger import Ledger, LedgerIndex, SampleRecord, Shard, ledgers, lock_ledger
from .manifest import MANIFEST_CSV, write_manifest
from .selection import Selection


def recorded_run(directory: Path, resume: bool, shard: Shard) -> RunDescription | None:
    """What is already in the output directory: None for a run yet to be started. Nothing is written.

    A shard may join the run of its fellows in one directory as long as it has no ledger there.

    Raises:
        UsageError: the directory holds files and is not to be resumed, or is none.
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
    return read_description(directory) if started else None


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
    """An open run: the ledger is locked, what is left of a kill is cleared. Use as a context manager."""

    def __init__(self, directory: Path, run: RunDescription, selection: Selection) -> None:
        self.directory, self.run, self.selection = directory, run, selection
        self._ledger = Ledger(directory / selection.shard.ledger_name)
        self._others: list[FileLock] = []
        self.done = 0
        self.changed: list[int] = []  # samples whose files are missing or changed since they were recorded
        self.todo: list[int] = []

    def __enter__(self) -> RunDirectory:
        with disk_faults(self.directory):
            self._start()
            self._ledger.__enter__()
            try:
                self._lock_shards()
                self._survey()
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        for lock in self._others:
            lock.release()
        self._others = []
        self._ledger.__exit__(None, None, None)

    def record(self, record: SampleRecord) -> None:
        """Append to the ledger; OSError when the disk is full."""
        self._ledger.append(record)

    def close_complete(self) -> int:
        """Tidy the ledger, write the manifest of a run that is not split; the number of failed samples selected."""
        with disk_faults(self.directory):
            self.clear_leftovers()  # of workers that died in this run
            self._ledger.tidy()
            index = LedgerIndex.of(self.directory)
            if self.selection.shard.count == 1:
                write_manifest(self.directory, self.run, index)
        wanted = set(self.selection)
        return sum(r.fault is not None for r in index.records(sorted(wanted & index.places.keys())))

    def clear_leftovers(self) -> None:
        """Remove the temporary files of this shard's samples."""
        whole = self.selection.shard.count == 1

        def mine(name: str) -> bool:
            sample = owner(name)
            return whole if sample is None else self.selection.owns(sample)

        clear_temporaries(self.directory, mine)

    def _start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        sync_folder(self.directory.parent)
        orphans = [] if (self.directory / RUN_NAME).exists() else ledgers(self.directory)
        if not create_exclusively(self.directory / RUN_NAME, self.run.to_bytes()):
            require_same(self.directory, read_description(self.directory), self.run)
            return
        for path in orphans:  # without their run.json nobody knows what they recorded
            lock = lock_ledger(path)
            os.ftruncate(lock.descriptor, 0)
            lock.release()

    def _lock_shards(self) -> None:
        if self.selection.shard.count > 1:
            return
        for path in ledgers(self.directory):
            if path != self._ledger.path:
                self._others.append(lock_ledger(path))

    def _survey(self) -> None:
        self.clear_leftovers()
        index = LedgerIndex.of(self.directory)
        wanted = list(self.selection)
        recorded = [s for s in wanted if s in index.places]
        good: set[int] = set()
        for record in index.records(recorded):
            if record.fault is None and intact(self.directory, record):
                good.add(record.sample)
            elif record.fault is None:
                self.changed.append(record.sample)
        self.todo = [s for s in wanted if s not in good]
        self.done = len(good)
        if self.todo:
            (self.directory / MANIFEST_CSV).unlink(missing_ok=True)


def intact(directory: Path, record: SampleRecord) -> bool:
    """Whether every file of a record is there, unchanged."""
    return not damaged_files(directory, record)


def damaged_files(directory: Path, record: SampleRecord) -> list[tuple[str, str]]:
    """(path, "missing" or "changed") of the files of a record that are not as they were written."""
    found = []
    for entry in record.files:
        path = directory / entry.path
        try:
            same = path.stat().st_size == entry.bytes and sha256_file(path) == entry.sha256
        except OSError:
            found.append((entry.path, "missing"))
            continue
        if not same:
            found.append((entry.path, "changed"))
    return found


@contextmanager
def disk_faults(directory: Path) -> Iterator[None]:
    """System errors of writing as errors of ours: a full disk can be resumed, a directory that refuses cannot.

    Raises:
        IncompleteRunError: no room is left.
        UsageError: the directory cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise IncompleteRunError(
                f"{directory}: no room left on the disk; make room and go on with --resume"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            raise UsageError(f"{directory}: cannot be written ({error.strerror}); give another --out") from error
        raise
