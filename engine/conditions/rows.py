"""From a piece of a condition table to its rows: by whole arrays where it is plain, else cell by cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import cells, plain
from .cells import ID, Header
from .columns import Conditions
from .faults import Faults
from .pieces import Piece, count_lines
from .rules import FieldOfView, column_ranges


@dataclass(frozen=True)
class PieceRows:
    """What a piece of a table holds."""

    rows: Conditions  # those with as many cells as the header
    seen: int  # others too
    skipped: int  # of nothing but separators
    is_broken: bool  # a quote does not end; the rest of the file is not read


@dataclass(frozen=True)
class RowReader:
    """Reads the pieces of one file."""

    source: str
    columns: tuple[str, ...]
    field_of_view_mm: FieldOfView
    header: Header

    def read(self, piece: Piece, faults: Faults) -> PieceRows:
        """The rows of a piece, NaN where a cell is empty or no number.

        Raises:
            InvalidInputError: it is no UTF-8 text.
        """
        known = self.header.known
        if split := plain.split(piece.data, self.header.cells):
            columns = {name: split[k] for name, k in known.items()}
            rows = self._rows(range(piece.line, piece.line + len(split[0])), columns.pop(ID, None), columns, faults)
            return PieceRows(rows, len(rows), 0, False)
        table = cells.read_table(decode(piece, self.source), piece.line, self.header, faults)
        texts = dict(table.cells)
        ids = texts.pop(ID, None)
        if ids is not None:
            cells.check_ids(table.lines, ids, faults)
        rows = self._rows(table.lines, ids, texts, faults)
        return PieceRows(rows, table.rows, table.skipped, table.is_broken)

    def _rows(
        self, lines: Sequence[int], ids: Sequence[str] | None, columns: Mapping[str, Sequence[str]], faults: Faults
    ) -> Conditions:
        values = np.full((len(lines), len(self.columns)), np.nan)
        for k, (name, allowed) in enumerate(column_ranges(self.columns, self.field_of_view_mm).items()):
            if name in columns:
                values[:, k] = _numbers(name, lines, columns[name], str(allowed), faults)
        return Conditions(self.columns, [""] * len(lines) if ids is None else ids, values, lines, self.source)


def decode(piece: Piece, source: str) -> str:
    """The text of a piece.

    Raises:
        InvalidInputError: it is no UTF-8 text.
    """
    data, faults = piece.data, Faults(source)
    if piece.offset == 0 and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        faults.add(1, "encoding", "UTF-16", "UTF-8 text; save the file as CSV UTF-8")
        faults.raise_if_any()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = piece.line + count_lines(data[: error.start])
        faults.add(line, "encoding", f"byte 0x{data[error.start]:02x}", "UTF-8 text; save the file as CSV UTF-8")
        faults.raise_if_any()
        raise
    if "\0" in text:
        line = piece.line + count_lines(data[: data.index(0)])
        faults.add(line, "encoding", "a NUL byte", "UTF-8 text; is this a CSV file?")
        faults.raise_if_any()
    return text


def _numbers(
    name: str, lines: Sequence[int], column: Sequence[str], allowed: str, faults: Faults
) -> NDArray[np.float64]:
    if not isinstance(column, plain.Cells):
        return cells.numbers(name, lines, column, allowed, faults)
    values, others = plain.numbers(column)
    places = others.tolist()
    texts = [column[k] for k in places]
    values[others] = cells.numbers(name, [lines[k] for k in places], texts, allowed, faults)
    return values
