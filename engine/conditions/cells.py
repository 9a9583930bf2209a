"""The header, rows and numbers of a condition table, cell by cell, each fault with its line and what is allowed."""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .columns import SHARE_COLUMNS
from .faults import Faults

ID = "id"
MAX_HEADER = 1000  # a header with more cells is no condition table; its rows are not read
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Header:
    """The header row of a table."""

    line: int
    cells: int
    known: dict[str, int]  # column -> position


@dataclass(frozen=True)
class Table:
    """The cells of rows, as text."""

    lines: list[int]  # first line of each row
    cells: dict[str, list[str]]  # known column -> (rows,)
    skipped: int  # rows of nothing but separators
    rows: int  # others, those with a wrong number of cells included
    is_broken: bool  # a quote that does not end: nothing behind it was read


def records(text: str, line: int) -> Iterator[tuple[int, list[str], int]]:
    """First line and cells of every record, and the line behind it; csv.Error, with that line, at a broken quote."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        first = line + reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise csv.Error(first, str(error)) from error
        yield first, cells, line + reader.line_num


def read_table(text: str, line: int, header: Header, faults: Faults) -> Table:
    """The rows of whole records whose first is on `line`; those with a wrong number of cells are faults."""
    lines: list[int] = []
    cells: dict[str, list[str]] = {name: [] for name in header.known}
    rows = skipped = 0
    is_broken = False
    try:
        for at, row, _ in records(text, line):
            if not says_something(row):
                skipped += len(row) > 1
                continue
            rows += 1
            if len(row) != header.cells:
                allowed = f"{header.cells} cells, as the header has (empty ones count)"
                faults.add(at, "row", f"{len(row)} cells", allowed + _comma_hint(row, header.cells))
                continue
            lines.append(at)
            for name, k in header.known.items():
                cells[name].append(row[k].strip())
    except csv.Error as error:
        is_broken = True
        add_broken_quote(error, faults)
    return Table(lines, cells, skipped, rows, is_broken)


def add_broken_quote(error: csv.Error, faults: Faults) -> None:
    """The fault of a record that `records` cannot read."""
    line, why = error.args
    faults.add(line, "quotes", why, "a cell in quotes ends with \", then a comma or the line's end")


def says_something(row: list[str]) -> bool:
    """Whether any cell holds more than blanks."""
    return any(cell.strip() for cell in row)


def read_header(line: int, row: list[str], columns: Sequence[str], faults: Faults) -> Header | None:
    """The header; None where what follows is not worth reading."""
    header = [cell.strip() for cell in row]
    if not any(cell in columns or cell == ID for cell in header):
        if any(_NUMBER.fullmatch(cell) for cell in header):
            faults.add(line, "header", ",".join(header), f"a header row with some of {ID}, {', '.join(columns)}")
            return None
        if len(header) == 1 and re.search("[;\t]", header[0]):
            faults.add(line, "header", header[0], "columns separated by commas (and numbers with a decimal point)")
            return None
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
    return None if len(header) > MAX_HEADER else Header(line, len(header), known)


def check_ids(lines: Sequence[int], ids: list[str], faults: Faults) -> None:
    """A fault for each id that is not one line of printable text."""
    for line, name in zip(lines, ids, strict=True):
        if not name.isprintable():
            faults.add(line, ID, name, "one line of printable text")


def numbers(name: str, lines: Sequence[int], cells: Sequence[str], allowed: str, faults: Faults) -> NDArray[np.float64]:
    """The numbers of a column, NaN for empty cells and for what is no number."""
    values = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if not cell:
            continue
        number = float(cell) if _NUMBER.fullmatch(cell) else math.nan
        if math.isfinite(number):
            values[row] = number
        else:
            faults.add(lines[row], name, cell, f"a number, {allowed}" + _number_hint(cell))
    return values


def _comma_hint(row: list[str], cells: int) -> str:
    """What to do where a decimal comma, or a thousands separator, has split a cell."""
    for whole, part in pairwise(row) if len(row) > cells else ():
        if re.fullmatch(r"[+-]?\d+", whole.strip(), re.ASCII) and re.fullmatch(r"\d+", part, re.ASCII):
            return f"; is {whole.strip()},{part} one number? write {whole.strip()}.{part} with a decimal point"
    return ""


def _unknown(name: str, columns: Sequence[str]) -> str:
    if name in SHARE_COLUMNS:
        return "this model has no tissue labels; leave the column out"
    near = difflib.get_close_matches(name[:64].lower(), (ID, *columns), n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"not a condition of this model; {hint}allowed are {ID}, {', '.join(columns)}"


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
