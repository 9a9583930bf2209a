"""Read and write condition tables as CSV; a file's faults are all told at once, whatever its size."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError
from ..files import open_regular
from ..processor import available_threads
from ..threads import startable_threads
from .cells import ID, Header, add_broken_quote, read_header, records, says_something
from .columns import Conditions
from .faults import Faults
from .file import ConditionFile
from .ids import hashes_of
from .pieces import PIECE_BYTES, Digest, Piece, Read, pieces
from .plain import Hashes
from .rows import PieceRows, RowReader, decode
from .rules import FieldOfView, violations

log = logging.getLogger(__name__)

MAX_BYTES = 4 * 2**30
KEPT_BYTES = 16 * 2**20  # a table up to this size is kept in memory
_MOST_THREADS = 4
_BOM = b"\xef\xbb\xbf"

T = TypeVar("T")


class RowWatch(Protocol):
    """Looks at all rows of a table while it is read."""

    def measure(self, rows: Conditions) -> Any:
        """What there is to say of a part of the rows; called on any thread."""
        ...

    def add(self, rows: Conditions, measured: Any) -> None:
        """Take what `measure` said, part by part in the order of the file."""
        ...


def read_conditions(
    path: Path, columns: Sequence[str], field_of_view_mm: FieldOfView, watch: RowWatch | None = None
) -> ConditionFile:
    """Read a condition table for a model with these condition columns and field of view.

    Raises:
        InvalidInputError: the file cannot be read, or all its faults: `file:line: column: value: what is allowed`.
    """
    with _system_faults(path):
        handle = open_regular(path)
        try:
            size = os.fstat(handle.fileno()).st_size
            if size > MAX_BYTES:
                raise InvalidInputError(f"{path}: larger than {MAX_BYTES} bytes; this is not what is expected here")
            if size <= KEPT_BYTES:
                with handle:
                    return parse_conditions(handle.read(KEPT_BYTES), str(path), columns, field_of_view_mm, watch)
            made = _scan(_reading(handle.fileno()), size, str(path), tuple(columns), field_of_view_mm, watch)
        except BaseException:
            handle.close()
            raise
    weakref.finalize(made, handle.close)
    return made


def parse_conditions(
    data: bytes, source: str, columns: Sequence[str], field_of_view_mm: FieldOfView, watch: RowWatch | None = None
) -> ConditionFile:
    """`read_conditions` of bytes that are read already; `source` names the file in messages."""
    return _scan(lambda at, size: data[at : at + size], len(data), source, tuple(columns), field_of_view_mm, watch)


def format_number(value: float) -> str:
    """A number as tables hold it: 6 significant digits, no exponent, 0 as 0, NaN as an empty cell."""
    if math.isnan(value):
        return ""
    rounded = float(f"{value:.6g}")
    return "0" if rounded == 0 else np.format_float_positional(rounded, trim="-")


def conditions_csv(columns: Sequence[str], ids: Sequence[str], values: NDArray[np.float64]) -> str:
    """A condition table (rows, len(columns)) as CSV text, id first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([ID, *columns])
    writer.writerows([name, *map(format_number, row)] for name, row in zip(ids, values.tolist(), strict=True))
    return out.getvalue()


@contextmanager
def _system_faults(path: Path) -> Iterator[None]:
    """What the system says of a condition file, as InvalidInputError."""
    try:
        yield
    except IsADirectoryError as error:
        raise InvalidInputError(f"{path}: a directory; give a CSV file of conditions") from error
    except FileNotFoundError as error:
        raise InvalidInputError(f"{path}: no such file; give a CSV file of conditions") from error
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error})") from error


def _reading(descriptor: int) -> Read:
    """Reads of an open file, on any thread."""

    def read(at: int, size: int) -> bytes:
        parts: list[bytes] = []
        while size and (data := os.pread(descriptor, size, at)):
            parts.append(data)
            at, size = at + len(data), size - len(data)
        return b"".join(parts)

    return read


@dataclass(frozen=True)
class _Checked:
    """A piece of the file and all that is known of it by itself."""

    piece: Piece
    found: PieceRows
    faults: Faults
    ids: Hashes
    measured: Any  # None where there are faults


def _scan(
    read: Read,
    size: int,
    source: str,
    columns: tuple[str, ...],
    field_of_view_mm: FieldOfView,
    watch: RowWatch | None,
) -> ConditionFile:
    """Check the whole file, piece by piece on several threads; a file that is no UTF-8 text has that fault alone."""
    faults, digest = Faults(source), Digest(size)
    stream = _digested(read, source, digest)
    header, rest = _header(stream, source, columns, faults)
    if header is None:
        for piece in chain(rest, stream):
            decode(piece, source)
        faults.raise_if_any()
        raise AssertionError("a table without a header has a fault")
    before, seen, skipped, is_broken = faults.total, 0, 0, False
    reader = RowReader(source, columns, field_of_view_mm, header)
    made = ConditionFile(reader, read, digest)
    pool_size = 1 if size <= PIECE_BYTES else startable_threads(min(available_threads(), _MOST_THREADS))
    for checked in _in_order(lambda piece: _check(reader, piece, watch), chain(rest, stream), pool_size):
        if is_broken:
            continue
        found, is_broken = checked.found, checked.found.is_broken
        seen, skipped = seen + found.seen, skipped + found.skipped
        faults.absorb(checked.faults)
        made.add(checked.piece, found.rows, checked.ids)
        if watch is not None and not faults.total:
            watch.add(found.rows, checked.measured)
    if seen == 0 and faults.total == before:
        faults.add(header.line, "rows", "no data rows", "at least one row below the header")
    if skipped:
        log.warning("%s: %d row%s of nothing but separators skipped", source, skipped, "s" * (skipped > 1))
    made.close(faults)
    faults.raise_if_any()
    return made


def _digested(read: Read, source: str, digest: Digest) -> Iterator[Piece]:
    """The pieces of the file behind its byte order mark; all bytes go into the digest."""
    start = len(_BOM) if read(0, len(_BOM)) == _BOM else 0
    digest.update(read(0, start))
    for piece in pieces(read, source, start):
        digest.update(piece.data)
        yield piece


def _header(
    stream: Iterator[Piece], source: str, columns: tuple[str, ...], faults: Faults
) -> tuple[Header | None, list[Piece]]:
    """The header, the first row that says something, and what its piece holds below it."""
    for piece in stream:
        text = decode(piece, source)
        try:
            for line, row, behind in records(text, piece.line):
                if says_something(row):
                    return read_header(line, row, columns, faults), _from_line(piece, text, behind)
        except csv.Error as error:
            add_broken_quote(error, faults)
            return None, []
    faults.add(1, "header", "empty file", f"a header row with some of {ID}, {', '.join(columns)}")
    return None, []


def _from_line(piece: Piece, text: str, line: int) -> list[Piece]:
    """What a piece holds from a line on; nothing where it ends there."""
    above = sum(len(above.encode()) for above in islice(io.StringIO(text, newline=""), line - piece.line))
    return [Piece(piece.offset + above, line, piece.data[above:])] if above < len(piece.data) else []


def _check(reader: RowReader, piece: Piece, watch: RowWatch | None) -> _Checked:
    faults = Faults(reader.source)
    found = reader.read(piece, faults)
    rows = found.rows
    for violation in violations(rows.values, reader.columns, reader.field_of_view_mm):
        for row in violation.rows[: faults.LIMIT].tolist():
            faults.add(rows.lines[row], violation.column, violation.value(row), violation.allowed(row))
        faults.count(len(violation.rows) - faults.LIMIT)
    measured = None if watch is None or faults.total else watch.measure(rows)
    return _Checked(piece, found, faults, hashes_of(rows.ids), measured)


def _in_order(work: Callable[[Piece], T], todo: Iterable[Piece], threads: int) -> Iterator[T]:
    """`work` of each piece, in their order; on threads of its own where there are two or more."""
    if threads < 2:
        yield from map(work, todo)
        return
    flying: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads, "conditions") as pool:
        for piece in todo:
            flying.append(pool.submit(work, piece))
            if len(flying) > threads:
                yield flying.popleft().result()
        for future in flying:
            yield future.result()
