"""Read and write condition tables as CSV; a file's faults are all told at once."""

from __future__ import annotations

import csv
import difflib
import io
import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError
from ..files import read_bounded
from .columns import SHARE_COLUMNS, Conditions
from .faults import Faults
from .rules import FieldOfView, column_ranges, violations

log = logging.getLogger(__name__)

ID = "id"
MAX_BYTES = 256 * 2**20
MAX_HEADER = 1000  # a header with more cells is no condition table; its rows are not read
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class _Table:
    """The cells of a file's known columns, as text."""

    lines: list[int]  # first line of each row
    cells: dict[str, list[str]]  # column -> (rows,)


def read_conditions(path: Path, columns: Sequence[str], field_of_view_mm: FieldOfView) -> Conditions:
    """Read a condition table for a model with these condition columns and field of view.

    Raises:
        InvalidInputError: the file cannot be read, or all its faults: `file:line: column: value: what is allowed`.
    """
    return parse_conditions(read_condition_bytes(path), str(path), columns, field_of_view_mm)


def parse_conditions(data: bytes, source: str, columns: Sequence[str], field_of_view_mm: FieldOfView) -> Conditions:
    """`read_conditions` of bytes that are read already; `source` names the file in messages."""
    faults = Faults(source)
    table = _split(_decode(data, faults), tuple(columns), faults)
    ids = _ids(table, faults)
    values = np.full((len(table.lines), len(columns)), np.nan)
    for k, (name, allowed) in enumerate(column_ranges(columns, field_of_view_mm).items()):
        if name in table.cells:
            values[:, k] = _numbers(name, table, str(allowed), faults)
    for violation in violations(values, columns, field_of_view_mm):
        for row in violation.rows[: faults.LIMIT].tolist():
            faults.add(table.lines[row], violation.column, violation.value(row), violation.allowed(row))
        faults.count(len(violation.rows) - faults.LIMIT)
    faults.raise_if_any()
    return Conditions(tuple(columns), tuple(ids), values, tuple(table.lines), source)


def read_condition_bytes(path: Path) -> bytes:
    """The bytes of a condition file; InvalidInputError when it cannot be read, is no regular file or far too large."""
    try:
        return read_bounded(path, MAX_BYTES)
    except IsADirectoryError as error:
        raise InvalidInputError(f"{path}: a directory; give a CSV file of conditions") from error
    except FileNotFoundError as error:
        raise InvalidInputError(f"{path}: no such file; give a CSV file of conditions") from error
    except OSError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InvalidInputError(f"{path}: cannot be read ({error})") from error


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


def _decode(data: bytes, faults: Faults) -> str:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        faults.add(1, "encoding", "UTF-16", "UTF-8 text; save the file as CSV UTF-8")
        faults.raise_if_any()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = _line_of(data[: error.start])
        faults.add(line, "encoding", f"byte 0x{data[error.start]:02x}", "UTF-8 text; save the file as CSV UTF-8")
        faults.raise_if_any()
        raise
    if "\0" in text:
        faults.add(_line_of(data[: data.index(0)]), "encoding", "a NUL byte", "UTF-8 text; is this a CSV file?")
        faults.raise_if_any()
    return text


def _line_of(before: bytes) -> int:
    return before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n") + 1


def _records(text: str, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """First line and cells of every record; a broken quote ends the file there."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.add(line, "quotes", str(error), "a cell in quotes ends with \", then a comma or the line's end")
            return
        yield line, cells


def _split(text: str, columns: tuple[str, ...], faults: Faults) -> _Table:
    """Cells of the columns that are known; header and ragged rows are checked on the way."""
    records = _records(text, faults)
    first = next((record for record in records if _says_something(record[1])), None)
    if first is None:
        faults.add(1, "header", "empty file", f"a header row with some of {ID}, {', '.join(columns)}")
        faults.raise_if_any()
        return _Table([], {})
    header = [cell.strip() for cell in first[1]]
    known = _check_header(first[0], header, columns, faults)
    lines: list[int] = []
    cells: dict[str, list[str]] = {name: [] for name in known}
    if len(header) > MAX_HEADER:
        return _Table(lines, cells)
    rows, before, skipped = 0, faults.total, 0
    for line, row in records:
        if not _says_something(row):
            skipped += len(row) > 1
            continue
        rows += 1
        if len(row) != len(header):
            allowed = f"{len(header)} cells, as the header has (empty ones count)"
            faults.add(line, "row", f"{len(row)} cells", allowed + _comma_hint(row, len(header)))
            continue
        lines.append(line)
        for name, k in known.items():
            cells[name].append(row[k].strip())
    if rows == 0 and faults.total == before:
        faults.add(first[0], "rows", "no data rows", "at least one row below the header")
    if skipped:
        log.warning("%s: %d row%s of nothing but separators skipped", faults.source, skipped, "s" * (skipped > 1))
    return _Table(lines, cells)


def _says_something(row: list[str]) -> bool:
    return any(cell.strip() for cell in row)


def _comma_hint(row: list[str], cells: int) -> str:
    """What to do where a decimal comma, or a thousands separator, has split a cell."""
    for whole, part in pairwise(row) if len(row) > cells else ():
        if re.fullmatch(r"[+-]?\d+", whole.strip(), re.ASCII) and re.fullmatch(r"\d+", part, re.ASCII):
            return f"; is {whole.strip()},{part} one number? write {whole.strip()}.{part} with a decimal point"
    return ""


def _check_header(line: int, header: list[str], columns: tuple[str, ...], faults: Faults) -> dict[str, int]:
    """Position of each known column."""
    if not any(cell in columns or cell == ID for cell in header):
        if any(_NUMBER.fullmatch(cell) for cell in header):
            faults.add(line, "header", ",".join(header), f"a header row with some of {ID}, {', '.join(columns)}")
        elif len(header) == 1 and re.search("[;\t]", header[0]):
            faults.add(line, "header", header[0], "columns separated by commas (and numbers with a decimal point)")
        faults.raise_if_any()
    known: dict[str, int] = {}
    unknown: list[int] = []
    for k, name in enumerate(header):
        if name in known:
            faults.add(line, name, f"column {k + 1}", f"each column once; it is already column {known[name] + 1}")
        elif name == ID or name in columns:
            known[name] = k
        else:
            unknown.append(k)
    for k in unknown[: faults.LIMIT]:
        faults.add(line, header[k] or "unnamed column", f"column {k + 1}", _unknown(header[k], columns))
    faults.count(len(unknown) - faults.LIMIT)
    return known


def _unknown(name: str, columns: tuple[str, ...]) -> str:
    if name in SHARE_COLUMNS:
        return "this model has no tissue labels; leave the column out"
    near = difflib.get_close_matches(name[:64].lower(), (ID, *columns), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"not a condition of this model; {hint}allowed are {ID}, {', '.join(columns)}"


def _ids(table: _Table, faults: Faults) -> list[str]:
    ids = table.cells.get(ID, [""] * len(table.lines))
    first: dict[str, int] = {}
    for line, name in zip(table.lines, ids, strict=True):
        if not name:
            continue
        if not name.isprintable():
            faults.add(line, ID, name, "one line of printable text")
        if name in first:
            faults.add(line, ID, name, f"each id once; it is already on line {first[name]}")
        else:
            first[name] = line
    return ids


def _numbers(name: str, table: _Table, allowed: str, faults: Faults) -> NDArray[np.float64]:
    """The numbers of a column, NaN for empty cells and for what is no number."""
    cells = table.cells[name]
    values = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if not cell:
            continue
        number = float(cell) if _NUMBER.fullmatch(cell) else math.nan
        if math.isfinite(number):
            values[row] = number
        else:
            faults.add(table.lines[row], name, cell, f"a number, {allowed}" + _number_hint(cell))
    return values


def _alone(number: str, cell: str) -> str:
    return f"{float(number) / 100:.6g} for {cell}" if cell.endswith("%") else number


def _number_hint(cell: str) -> str:
    plain = cell.replace(" ", ",").replace("\u00a0", ",").replace("\u202f", ",")
    if re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?", plain, re.ASCII):
        either = f", or {plain.replace(',', '.')} if the comma is a decimal one" if plain.count(",") == 1 else ""
        return f"; write {plain.replace(',', '')} without a thousands separator{either}"
    if re.fullmatch(r"[+-]?\d+,\d+", cell):
        return f"; write a decimal point: {cell.replace(',', '.')}"
    if with_unit := re.fullmatch(rf"({_NUMBER.pattern})\s*([^\W\d]\w*|%|\u00b5\w+)[\u00b2\u00b3]?", cell):
        return f"; write the number alone: {_alone(with_unit[1], cell)}"
    return (
        "; leave the cell empty to have it drawn" if cell.lower() in ("nan", "na", "n/a", "none", "null", "-") else ""
    )
