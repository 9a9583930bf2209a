"""The ledger: one JSON line a finished sample, appended and fsynced after its files are in place.

Each line carries a checksum over the run's id and its own content. A line that a power loss tore is dropped; one that
fails its checksum, or tells what this run cannot have made, counts as not written and is named. A sample that is
recorded twice counts as recorded last.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ..decode import decode
from ..errors import IncompleteRunError, InvalidInputError, UsageError
from ..folder import Folder
from ..locked_files import LockedFile
from ..locks import LockHeldError
from .description import RUN_NAME, RunDescription, read_description

LEDGER_PATTERN = re.compile(r"ledger(?:-(\d+)-of-(\d+))?\.jsonl")
QUALITY = ("inside_brain", "pieces", "largest_piece_share")
"""What is measured beside the condition columns."""
MAX_LINE_BYTES = 1 << 20
MAX_ID = 1000
_CHECKSUM_DIGITS = 32
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHOWN = 20


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

    def to_line(self, run_id: str) -> bytes:
        """The record as one line of JSON with its checksum."""
        data = {**vars(self), "files": [vars(entry) for entry in self.files]}
        content = json.dumps(data, separators=(",", ":"), allow_nan=False)
        return f'{content[:-1]},"checksum":"{_checksum(run_id, content)}"}}\n'.encode()


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` equal parts of a run, by turns: sample k belongs to part group(k) % count."""

    index: int = 0
    count: int = 1

    @property
    def ledger_name(self) -> str:
        """File name of the shard's ledger."""
        return "ledger.jsonl" if self.count == 1 else f"ledger-{self.index}-of-{self.count}.jsonl"


class RunHeldError(UsageError):
    """Another process is writing this part of the run."""


class Ledger:
    """A ledger open for appending, locked against a second process; use as a context manager."""

    def __init__(self, folder: Folder, name: str, run: RunDescription) -> None:
        self.folder, self.name, self.run = folder, name, run
        self._file: LockedFile | None = None
        self._end = 0  # of what was written here

    def __enter__(self) -> Ledger:
        self._file = lock_ledger(self.folder, self.name)
        try:
            self._file.cut_torn_line()
            self._file.sync_name()
        except OSError:
            self.__exit__()
            raise
        self._end = self._file.size()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def append(self, record: SampleRecord) -> None:
        """Append a record and make it lasting; a line that does not fit is taken back before OSError is raised.

        Raises:
            IncompleteRunError: the ledger is not the file that was opened, or another program wrote to it.
            OSError: it cannot be written.
        """
        if self._file is None:
            raise ValueError("the ledger is not open")
        if not self._file.is_the_named_file() or self._file.size() != self._end:
            raise IncompleteRunError(
                f"{self.folder.root / self.name}: another program replaced or changed it while this run was writing; "
                "end that program and go on with --resume"
            )
        line = record.to_line(self.run.id)
        self._file.append(line)
        self._end += len(line)

    def tidy(self) -> None:
        """Bring the lines into the order of samples, the last of each alone; the ledger takes no more after this."""
        index = LedgerIndex.of_names(self.folder, [self.name], self.run)
        offsets = [index.places[sample][1] for sample in sorted(index.places)]
        if not index.faults and offsets == sorted(offsets) and index.lines == len(offsets):
            return
        with self.folder.writing(self.name) as handle:
            handle.writelines(record.to_line(self.run.id) for record in index.records())


def lock_ledger(folder: Folder, name: str) -> LockedFile:
    """Open a ledger for appending (made if absent) and lock it; the lock ends with the process.

    Raises:
        RunHeldError: another process holds it.
        OSError: it cannot be opened or locked.
    """
    while True:
        try:
            file = folder.appending(name)
        except LockHeldError as error:
            raise RunHeldError(
                f"{folder.root}: another process is writing this part of the run ({name} is locked); "
                f"wait for it, or give this one another --shard or --out\n{error}"
            ) from None
        if file.is_the_named_file():  # else its last holder put another in its place
            return file
        file.close()


def parse_line(line: bytes, run: RunDescription) -> SampleRecord:
    """The record of one ledger line.

    Raises:
        InvalidInputError: the line is no record, fails its checksum, or tells what this run cannot have made.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("is no JSON") from error
    if not isinstance(data, dict):
        raise InvalidInputError("is no record of a sample")
    data.pop("checksum", None)
    record = decode(SampleRecord, data, "is no record of a sample")
    if record.to_line(run.id) != line:
        raise InvalidInputError("its checksum does not fit the run and its content")
    for problem in _problems(record, run):
        raise InvalidInputError(problem)
    return record


def ledger_names(folder: Folder) -> list[str]:
    """The ledgers in a run directory."""
    return [name for name in folder.names() if LEDGER_PATTERN.fullmatch(name)]


@dataclass
class LedgerIndex:
    """Where the last record of each sample lies, over all ledgers of a directory; flat in the size of a record."""

    folder: Folder | None
    names: list[str]
    run: RunDescription | None
    places: dict[int, tuple[int, int]] = field(default_factory=dict)  # sample -> (index into names, byte offset)
    faults: list[str] = field(default_factory=list)  # lines that count as not written: "ledger.jsonl:3: why"
    lines: int = 0

    @staticmethod
    def of(directory: Path) -> LedgerIndex:
        """The index of a run directory, empty where no run was started; the last record of a sample wins.

        Raises:
            InvalidInputError: run.json is damaged.
        """
        if not (directory / RUN_NAME).exists():
            return LedgerIndex(None, [], None)
        return LedgerIndex.of_folder(Folder(directory), read_description(directory))

    @staticmethod
    def of_folder(folder: Folder, run: RunDescription) -> LedgerIndex:
        """The index of all ledgers in an open run directory."""
        return LedgerIndex.of_names(folder, ledger_names(folder), run)

    @staticmethod
    def of_names(folder: Folder, names: list[str], run: RunDescription) -> LedgerIndex:
        """The index of some ledgers."""
        index = LedgerIndex(folder, names, run)
        for number, name in enumerate(names):
            index._add(number, name, folder, run)
        return index

    def records(self, samples: list[int] | None = None) -> Iterator[SampleRecord]:
        """The records of `samples` (all by default), sorted by sample."""
        if self.folder is None or self.run is None:
            return
        with ExitStack() as stack:
            handles = [stack.enter_context(self.folder.reading(name)) for name in self.names]
            for sample in sorted(self.places if samples is None else samples):
                number, offset = self.places[sample]
                handles[number].seek(offset)
                yield parse_line(handles[number].readline(MAX_LINE_BYTES), self.run)

    def told_faults(self) -> list[str]:
        """The first faults and the number of the others."""
        more = len(self.faults) - _SHOWN
        return self.faults[:_SHOWN] + ([f"and {more} more lines"] if more > 0 else [])

    def _add(self, number: int, name: str, folder: Folder, run: RunDescription) -> None:
        with folder.reading(name) as handle:
            for count, (offset, line) in enumerate(_lines(handle), start=1):
                self.lines += 1
                try:
                    record = parse_line(line, run)
                except InvalidInputError as error:
                    why = str(error).partition("\n")[0]
                    self.faults.append(f"{name}:{count}: {why}; the sample of this line counts as not made")
                else:
                    self.places[record.sample] = (number, offset)


@contextmanager
def quiet_ledgers(folder: Folder, but: str = "") -> Iterator[None]:
    """Hold the ledgers of a directory, all `but` one, while nobody writes them.

    Raises:
        UsageError: a process is writing one of them.
    """
    with ExitStack() as stack:
        for name in ledger_names(folder):
            if name == but:
                continue
            try:
                stack.enter_context(folder.held_for_reading(name))
            except LockHeldError as error:
                raise UsageError(
                    f"{folder.root / name}: a process is still writing this run; wait for it to end\n{error}"
                ) from None
        yield


def _lines(handle: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(byte offset, line) of each whole line; of one that is far too long, its beginning."""
    offset = 0
    while line := handle.readline(MAX_LINE_BYTES):
        rest = line
        length = len(line)
        while not rest.endswith(b"\n") and (rest := handle.readline(MAX_LINE_BYTES)):
            length += len(rest)
        if rest.endswith(b"\n"):
            yield offset, line
        offset += length


def _problems(record: SampleRecord, run: RunDescription) -> Iterator[str]:
    """What this run cannot have made."""
    options, columns = run.options, run.bundle.columns
    if not 0 <= record.sample < options.count:
        yield f"tells of sample {record.sample} of a run of {options.count}"
    if not 0 <= record.attempt <= options.attempts:
        yield f"tells of attempt {record.attempt} of {options.attempts}"
    if len(record.id) > MAX_ID or not record.id.isprintable():
        yield f"its id {record.id[:40]!r} is longer than {MAX_ID} characters or cannot be printed"
    if tuple(record.requested) != columns or not set(record.drawn) <= set(columns):
        yield "its conditions are not those of the bundle"
    if record.fault is not None:
        if record.files or record.measured:
            yield "tells of files of a sample that failed"
        return
    if tuple(record.measured) != (*columns, *QUALITY):
        yield "its measurements are not those of the bundle"
    if [entry.path for entry in record.files] != list(run.layout().paths(record.sample).values()):
        yield "its files are not those of this sample in the run's layout"
    if not all(_SHA256.fullmatch(entry.sha256) and entry.bytes >= 0 for entry in record.files):
        yield "its files have no sha256 and size"


def _checksum(run_id: str, content: str) -> str:
    return hashlib.sha256(f"{run_id}\n{content}".encode()).hexdigest()[:_CHECKSUM_DIGITS]
