"""A table's bytes in pieces that end where a record ends, and what they sum up to: files of any size in flat memory."""

from __future__ import annotations

import csv
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ..errors import InvalidInputError

PIECE_BYTES = 2**20
MAX_LINE_BYTES = 64 * 2**20
_SUMMED_BYTES = 4 * 2**20  # of a file whose lines are summed one by one

Read = Callable[[int, int], bytes]
"""offset, size -> the bytes there; fewer at the end of the file."""


@dataclass(frozen=True)
class Piece:
    """Whole records of a table."""

    offset: int  # in the file
    line: int  # the first of it, from 1
    data: bytes


def pieces(read: Read, source: str, start: int = 0) -> Iterator[Piece]:
    """The file from `start` on, in pieces of about PIECE_BYTES; the last one ends where the file does.

    Raises:
        InvalidInputError: a line, or a cell in quotes, of more than MAX_LINE_BYTES.
    """
    at, begin, line, kept = start, start, 1, b""
    while data := read(at, PIECE_BYTES):
        at += len(data)
        kept += data
        cut = kept.rfind(b"\n") + 1 or kept.rfind(b"\r", 0, -1) + 1
        if b'"' in kept:
            cut = _last_record_end(kept[:cut])
        if cut:
            yield Piece(begin, line, kept[:cut])
            begin, line, kept = begin + cut, line + count_lines(kept[:cut]), kept[cut:]
        elif len(kept) > MAX_LINE_BYTES:
            raise InvalidInputError(f"{source}:{line}: row: longer than {MAX_LINE_BYTES} bytes: is this a CSV file?")
    if kept:
        yield Piece(begin, line, kept)


def count_lines(data: bytes) -> int:
    """Line ends in these bytes: LF, CR or both together."""
    returns = data.count(b"\r")
    return data.count(b"\n") + (returns - data.count(b"\r\n") if returns else 0)


def _last_record_end(data: bytes) -> int:
    """Where the last record ends that does so within these whole lines; behind a broken one that ends before them."""
    read = end = 0

    def lines() -> Iterator[str]:
        nonlocal read
        for line in io.StringIO(data.decode("latin-1"), newline=""):  # a character a byte
            read += len(line)
            yield line

    reader = csv.reader(lines(), strict=True)
    while True:
        try:
            next(reader)
        except StopIteration:
            return end
        except csv.Error:
            if read == len(data):  # it may go on in the next piece
                return end
        end = read


class Digest:
    """sha256 of a file, and the CRC-32 of each of its lines, or of so many together that the sums stay small."""

    def __init__(self, size: int) -> None:
        self._sha256 = hashlib.sha256()
        self.lines_a_sum = 1 << max(0, (size - 1) // _SUMMED_BYTES).bit_length()
        self._sums = bytearray()
        self._rest = b""

    def update(self, data: bytes) -> None:
        """Add bytes."""
        self._sha256.update(data)
        data = self._rest + data
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))[self.lines_a_sum - 1 :: self.lines_a_sum]
        begin = 0
        for end in ends.tolist():
            self._sums += _sum(data[begin:end])
            begin = end + 1
        self._rest = data[begin:]

    def sha256(self) -> str:
        """Hex sha256 of all bytes."""
        return self._sha256.hexdigest()

    def lines(self) -> str:
        """The sums, 8 hex digits each; after `N*` where N lines are summed together."""
        text = (self._sums + _sum(self._rest)).decode()
        return text if self.lines_a_sum == 1 else f"{self.lines_a_sum}*{text}"


def _sum(lines: bytes) -> bytes:
    return b"%08x" % zlib.crc32(lines.replace(b"\r\n", b"\n").rstrip(b"\r"))
