"""A checked condition table whose rows stay in its file: eight bytes a row with an id, and little else, in memory."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import IncompleteRunError
from .columns import Conditions
from .faults import Faults
from .ids import IdIndex
from .pieces import Digest, Piece, Read
from .plain import Hashes
from .rows import RowReader


@dataclass(frozen=True)
class _Block:
    """Where consecutive rows lie."""

    first_row: int
    offset: int
    size: int  # bytes
    line: int
    crc: int


class ConditionFile:
    """The rows of a condition table, read again where they are asked for; `add` each piece in order, then `close`."""

    def __init__(self, reader: RowReader, read: Read, digest: Digest) -> None:
        self.columns, self.source, self.digest = reader.columns, reader.source, digest
        self._reader, self._read = reader, read
        self._blocks: list[_Block] = []
        self._rows = 0
        self._counts = np.zeros(len(self.columns), np.int64)
        self._ids = IdIndex()
        self._held: tuple[int, Conditions] | None = None  # the block of the row asked for last

    def __len__(self) -> int:
        return self._rows

    def at(self, row: int) -> tuple[str, NDArray[np.float64]]:
        """Id and values of a row.

        Raises:
            IncompleteRunError: the file was changed since it was checked.
        """
        rows, place = self._rows_with(row)
        return rows.at(place)

    def line(self, row: int) -> int:
        """Line of a row in the file, from 1; raises as `at`."""
        rows, place = self._rows_with(row)
        return rows.lines[place]

    def has_id(self, name: str) -> bool:
        """Whether a row has this id; also for one whose hash is that of a row's."""
        return name in self._ids

    def given(self) -> str:
        """How many rows give each column, for people."""
        told = [f"{name} {count}" for name, count in zip(self.columns, self._counts.tolist(), strict=True) if count]
        return ", ".join(told) or "nothing, every cell will be drawn"

    def add(self, piece: Piece, rows: Conditions, ids: Hashes) -> None:
        """The rows of the next piece, and the hashes of their ids."""
        if len(rows):
            crc = zlib.crc32(piece.data)
            self._blocks.append(_Block(self._rows, piece.offset, len(piece.data), piece.line, crc))
        self._rows += len(rows)
        self._counts += np.count_nonzero(~np.isnan(rows.values), axis=0)
        self._ids.add(ids)

    def close(self, faults: Faults) -> None:
        """All rows are there; ids that are given twice are faults."""
        self._ids.close()
        self._ids.add_repeated(lambda: map(self._read_block, self._blocks), faults)

    def _rows_with(self, row: int) -> tuple[Conditions, int]:
        """The rows of the block that holds `row`, and its place among them."""
        number = bisect_right(self._blocks, row, key=lambda block: block.first_row) - 1
        held = self._held
        if held is None or held[0] != number:
            held = self._held = (number, self._read_block(self._blocks[number]))
        return held[1], row - self._blocks[number].first_row

    def _read_block(self, block: _Block) -> Conditions:
        data = self._read(block.offset, block.size)
        if zlib.crc32(data) != block.crc:
            raise IncompleteRunError(
                f"{self.source}: was changed while it was in use; restore it and go on with --resume"
            )
        return self._reader.read(Piece(block.offset, block.line, data), Faults(self.source)).rows
