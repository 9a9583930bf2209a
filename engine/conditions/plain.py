"""Tables of printable ASCII without quotes, read by whole arrays: their cells, numbers and hashes.

`split` says whether a piece of a table is one. `csv` reads all others, and is what this is held to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Places = NDArray[np.intp]
Hashes = NDArray[np.uint64]

_NEWLINE, _COMMA, _POINT, _PLUS, _MINUS, _ZERO = b"\n,.+-0"
_PADDED = (b" ,", b", ", b" \n", b"\n ")
_MOST_WIDTH, _MOST_DIGITS = 20, 19  # of a number; 19 digits fit 64 bits
_NARROW = 9  # characters whose number fits 32 bits, which are faster
_POWERS = np.power(10.0, np.arange(_MOST_WIDTH), dtype=np.float64)  # each of them exact
_EXACT = np.uint64(2**53)
_SPLITTER = 2.0**27 + 1
_HASHED_WIDTH = 32
_FNV_OFFSET, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


@dataclass(frozen=True)
class Cells(Sequence[str]):
    """A column of cells: each the UTF-8 text between two places of a buffer."""

    buffer: Bytes
    starts: Places
    ends: Places

    @staticmethod
    def of(texts: Sequence[str]) -> Cells:
        """Cells that hold these texts."""
        encoded = [text.encode() for text in texts]
        ends = np.cumsum(np.array([len(text) for text in encoded], np.intp), dtype=np.intp)
        return Cells(
            np.frombuffer(b"".join(encoded) + b"\n", np.uint8), np.concatenate([[0], ends[:-1]]).astype(np.intp), ends
        )

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Cells: ...
    def __getitem__(self, index: int | slice) -> str | Cells:
        if isinstance(index, slice):
            return Cells(self.buffer, self.starts[index], self.ends[index])
        return self.buffer[self.starts[index] : self.ends[index]].tobytes().decode()

    def filled(self) -> Places:
        """The cells that are not empty."""
        return np.flatnonzero(self.ends > self.starts)

    def hashes(self) -> Hashes:
        """A hash of each cell: FNV-1a, of long ones BLAKE2b."""
        width = self.ends - self.starts
        found = np.full(len(self), _FNV_OFFSET)
        for k in range(min(int(width.max(initial=0)), _HASHED_WIDTH)):
            byte = self.buffer.take(self.starts + k, mode="clip")
            found = np.where(width > k, (found ^ byte) * _FNV_PRIME, found)
        for row in np.flatnonzero(width > _HASHED_WIDTH).tolist():
            digest = hashlib.blake2b(self.buffer[self.starts[row] : self.ends[row]].tobytes(), digest_size=8).digest()
            found[row] = int.from_bytes(digest, "little")
        return found


def split(data: bytes, columns: int) -> list[Cells] | None:
    """The columns of whole lines; None where a cell or a line is not plain.

    Plain are printable ASCII without quotes, cells without spaces around them, as many in each row as there are
    columns, and none of the rows empty.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if not data.endswith(b"\n"):
        data += b"\n"
    if b'"' in data or data.startswith(b" ") or any(pair in data for pair in _PADDED):
        return None
    buffer = np.frombuffer(data, np.uint8)
    newline = buffer == _NEWLINE
    if np.any((buffer < ord(" ")) & ~newline) or buffer.max() > ord("~"):
        return None
    separators = np.flatnonzero(newline | (buffer == _COMMA))
    if len(separators) % columns:
        return None
    ends = separators.reshape(-1, columns)
    if np.count_nonzero(newline) != len(ends) or not newline[ends[:, -1]].all():
        return None
    starts = np.concatenate([[-1], separators[:-1]]).reshape(-1, columns) + 1
    if np.any(ends[:, -1] - starts[:, 0] == columns - 1):
        return None
    by_column = np.ascontiguousarray(starts.T), np.ascontiguousarray(ends.T)
    return [Cells(buffer, *column) for column in zip(*by_column, strict=True)]


def numbers(cells: Cells) -> tuple[NDArray[np.float64], Places]:
    """The value of each cell, NaN for an empty one; and the cells that are none of these plain decimals.

    A plain decimal has a sign or none, at most 19 digits and one point; its value is what `float` gives.
    """
    starts, width = cells.starts, cells.ends - cells.starts
    widest = min(int(width.max(initial=0)), _MOST_WIDTH)
    kind = np.uint32 if widest <= _NARROW else np.uint64
    mantissa = np.zeros(len(cells), kind)
    point = width.copy()  # where it stands, behind the last digit where there is none
    points, good = np.zeros(len(cells), np.uint8), width <= _MOST_WIDTH
    first = cells.buffer.take(starts, mode="clip")
    negative = (first == _MINUS) & (width > 0)
    signed = negative | ((first == _PLUS) & (width > 0))
    for k in range(widest):
        byte, inside = cells.buffer.take(starts + k, mode="clip"), width > k
        digit = byte - np.uint8(_ZERO)
        is_digit = (digit < 10) & inside
        mantissa = np.where(is_digit, mantissa * kind(10) + digit, mantissa)
        is_point = (byte == _POINT) & inside
        point[is_point] = k
        points += is_point
        good &= is_digit | is_point | ~inside | (signed if k == 0 else False)
    digits = width - points - signed
    good &= (points <= 1) & (digits > 0) & (digits <= _MOST_DIGITS)
    values = _quotient(mantissa.astype(np.uint64), np.where(good, np.maximum(width - point - 1, 0), 0))
    values = np.where(negative, -values, values)
    values[~good] = np.nan
    return values, np.flatnonzero(~good & (width > 0))


def _quotient(mantissa: NDArray[np.uint64], decimals: NDArray[np.intp]) -> NDArray[np.float64]:
    """mantissa / 10^decimals, rounded once.

    Both are exact in double precision up to 2^53 and 10^22, so that one division is rounded right (Clinger 1990,
    doi 10.1145/93542.93557). Of larger mantissas the division's remainder is found by Dekker's product (1971,
    doi 10.1007/BF01397083) and divided too.
    """
    power = _POWERS[decimals]
    high = mantissa.astype(np.float64)
    quotient = high / power
    wide = np.flatnonzero(mantissa > _EXACT)
    if len(wide):
        high, power, first = high[wide], power[wide], quotient[wide]
        low = (mantissa[wide] - high.astype(np.uint64)).view(np.int64).astype(np.float64)
        product, error = _product(first, power)
        quotient[wide] = first + ((high - product) - error + low) / power
    return quotient


def _product(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """a b as the sum of two doubles."""
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    product = a * b
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _halves(a: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    scaled = a * _SPLITTER
    high = scaled - (scaled - a)
    return high, a - high
