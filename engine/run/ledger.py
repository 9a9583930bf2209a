"""The ledger: one JSON line a finished sample, appended and fsynced after its files are in place.

A line that a power loss tore is dropped; a sample that is recorded twice counts as recorded last.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import UsageError
from ..files import atomic_file, sync_folder
from ..locks import FileLock, LockHeldError, lock_file

_BLOCK = 65536
LEDGER_PATTERN = re.compile(r"ledger(?:-(\d+)-of-(\d+))?\.jsonl")


@dataclass(frozen=True)
class FileEntry:
    """One written file of a sample."""

    path: str  # relative to the run directory, POSIX
    sha256: str
    bytes: int


@dataclass(frozen=True)
class SampleRecord:
    """What the ledger knows of one sample."""

    sample: int
    id: str
    attempt: int  # the draw that was kept; 0 without --reject
    requested: dict[str, float]  # the conditions the model was given, by column
    drawn: tuple[str, ...]  # columns of `requested` that the cohort supplied
    measured: dict[str, float | None]  # None for what an empty tumour lacks
    files: tuple[FileEntry, ...] = ()
    within_tolerance: bool | None = None  # None without --reject
    fault: str | None = None  # why there are no files

    def to_line(self) -> bytes:
        """The record as one line of JSON."""
        return (json.dumps(asdict(self), separators=(",", ":"), allow_nan=False) + "\n").encode()

    @staticmethod
    def from_json(data: dict[str, Any]) -> SampleRecord:
        """The record of a parsed line; KeyError or TypeError when it is none."""
        files = tuple(FileEntry(**entry) for entry in data["files"])
        return SampleRecord(**{**data, "files": files, "drawn": tuple(data["drawn"])})


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` equal parts of a run, by turns: sample k belongs to part group(k) % count."""

    index: int = 0
    count: int = 1

    @property
    def ledger_name(self) -> str:
        """File name of the shard's ledger."""
        return "ledger.jsonl" if self.count == 1 else f"ledger-{self.index}-of-{self.count}.jsonl"


@dataclass
class Ledger:
    """A ledger open for appending, locked against a second process; use as a context manager."""

    path: Path
    _lock: FileLock | None = field(default=None, init=False)

    def __enter__(self) -> Ledger:
        self._lock = lock_ledger(self.path)
        drop_torn_line(self.path)
        sync_folder(self.path.parent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.release()
        self._lock = None

    @property
    def _descriptor(self) -> int:
        return -1 if self._lock is None else self._lock.descriptor

    def append(self, record: SampleRecord) -> None:
        """Append a record and make it lasting; a line that does not fit is taken back before OSError is raised."""
        line = record.to_line()
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise

    def tidy(self) -> None:
        """Bring the lines into the order of samples, the last of each alone; the ledger takes no more after this."""
        index = LedgerIndex.of_file(self.path)
        offsets = [index.places[sample][1] for sample in sorted(index.places)]
        with self.path.open("rb") as handle:
            lines = sum(1 for _ in handle)
        if offsets == sorted(offsets) and lines == len(offsets):
            return
        with atomic_file(self.path) as handle:
            handle.writelines(record.to_line() for record in index.records())


def lock_ledger(path: Path) -> FileLock:
    """Open `path` for appending (made if absent) and lock it; the lock ends with the process.

    Raises:
        UsageError: another process holds it.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        return lock_file(descriptor, path)
    except LockHeldError as error:
        raise UsageError(
            f"{path.parent}: another process is writing this part of the run ({path.name} is locked); "
            f"wait for it, or give this one another --shard or --out\n{error}"
        ) from None


def drop_torn_line(path: Path) -> None:
    """Cut what follows the last line end of a ledger."""
    with path.open("r+b") as handle:
        size = handle.seek(0, os.SEEK_END)
        keep = size
        while keep > 0:
            start = max(keep - _BLOCK, 0)
            handle.seek(start)
            found = handle.read(keep - start).rfind(b"\n")
            keep = start + found + 1
            if found >= 0:
                break
        if keep < size:
            handle.truncate(keep)
            handle.flush()
            os.fsync(handle.fileno())


def read_ledger(path: Path) -> Iterator[tuple[int, SampleRecord]]:
    """(byte offset, record) of each whole line, in file order; lines that are no record are passed over."""
    with path.open("rb") as handle:
        offset = 0
        for line in handle:
            record = parse_line(line)
            if record is not None:
                yield offset, record
            offset += len(line)


def parse_line(line: bytes) -> SampleRecord | None:
    """The record of one ledger line, None for a torn or foreign line."""
    if not line.endswith(b"\n"):
        return None
    try:
        return SampleRecord.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError):
        return None


def ledgers(directory: Path) -> list[Path]:
    """The ledgers of a run directory, by name."""
    return sorted(p for p in directory.iterdir() if LEDGER_PATTERN.fullmatch(p.name) and p.is_file())


@dataclass
class LedgerIndex:
    """Where the last record of each sample lies, over all ledgers of a directory; flat in the size of a record."""

    paths: list[Path]
    places: dict[int, tuple[int, int]]  # sample -> (index into paths, byte offset)

    @staticmethod
    def of(directory: Path) -> LedgerIndex:
        """The index of a run directory; the last record of a sample wins."""
        return LedgerIndex._of(ledgers(directory))

    @staticmethod
    def of_file(path: Path) -> LedgerIndex:
        """The index of one ledger."""
        return LedgerIndex._of([path])

    @staticmethod
    def _of(paths: list[Path]) -> LedgerIndex:
        index = LedgerIndex(paths, {})
        for number, path in enumerate(paths):
            for offset, record in read_ledger(path):
                index.places[record.sample] = (number, offset)
        return index

    def records(self, samples: list[int] | None = None) -> Iterator[SampleRecord]:
        """The records of `samples` (all by default), sorted by sample."""
        handles = [path.open("rb") for path in self.paths]
        try:
            for sample in sorted(self.places if samples is None else samples):
                number, offset = self.places[sample]
                handles[number].seek(offset)
                record = parse_line(handles[number].readline())
                if record is not None:
                    yield record
        finally:
            for handle in handles:
                handle.close()


@contextmanager
def quiet_ledgers(directory: Path) -> Iterator[list[Path]]:
    """The ledgers of a directory while nobody writes them.

    Raises:
        UsageError: a process is writing one of them.
    """
    locks: list[FileLock] = []
    try:
        paths = ledgers(directory)
        for path in paths:
            try:
                locks.append(lock_file(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path, shared=True))
            except LockHeldError as error:
                raise UsageError(f"{path}: a process is still writing this run; wait for it to end\n{error}") from None
        yield paths
    finally:
        for lock in locks:
            lock.release()
