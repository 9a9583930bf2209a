"""The ids of a table, eight bytes each: whether one is given, and which are given twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from .cells import ID
from .columns import Conditions
from .faults import Faults
from .plain import Cells, Hashes

_SPARE = 2**18  # hashes that a grown array has room for

Parts = Callable[[], Iterable[Conditions]]
"""The rows of the table in parts, from the first on, as often as asked for."""


class IdIndex:
    """Hashes of all ids but empty ones; filled by `add`, then closed."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.uint64)
        self._count = 0

    def add(self, hashes: Hashes) -> None:
        """Hashes of further ids."""
        end = self._count + len(hashes)
        if end > len(self._sorted):
            self._sorted.resize(end + _SPARE, refcheck=False)  # moved by the system, not held twice
        self._sorted[self._count : end] = hashes
        self._count = end

    def close(self) -> None:
        """All ids are there."""
        self._sorted.resize(self._count, refcheck=False)
        self._sorted.sort()

    def __contains__(self, name: str) -> bool:
        """Whether a row has this id, or one with its hash."""
        wanted = Cells.of([name]).hashes()
        at = int(np.searchsorted(self._sorted, wanted)[0])
        return at < len(self._sorted) and self._sorted[at] == wanted[0]

    def add_repeated(self, parts: Parts, faults: Faults) -> None:
        """A fault for each id that an earlier line has too; the texts are compared where hashes are equal."""
        again = self._sorted[1:][self._sorted[1:] == self._sorted[:-1]]
        left = len(again)
        if not left:
            return
        candidates = _candidates(parts, np.unique(again))
        told = 0
        while told < faults.LIMIT and (some := list(islice(candidates, faults.LIMIT))):
            first = _first_lines(parts, {name for _, name in some})
            left -= len(some)
            for line, name in some:
                if first[name] < line:
                    told += 1
                    faults.add(line, ID, name, f"each id once; it is already on line {first[name]}")
        faults.count(left)


def hashes_of(ids: Sequence[str]) -> Hashes:
    """Hashes of those ids that are not empty."""
    cells = ids if isinstance(ids, Cells) else Cells.of(ids)
    places = cells.filled()
    return Cells(cells.buffer, cells.starts[places], cells.ends[places]).hashes()


def _candidates(parts: Parts, hashes: Hashes) -> Iterator[tuple[int, str]]:
    """Line and id of each row whose hash, one of these, an earlier row has too."""
    seen = np.zeros(len(hashes), dtype=bool)
    for rows, row, place in _rows_with(parts, hashes):
        if seen[place]:
            yield rows.lines[row], rows.ids[row]
        seen[place] = True


def _first_lines(parts: Parts, names: set[str]) -> dict[str, int]:
    """The first line of each of these ids."""
    found: dict[str, int] = {}
    for rows, row, _ in _rows_with(parts, np.unique(Cells.of(sorted(names)).hashes())):
        name = rows.ids[row]
        if name in names and name not in found:
            found[name] = rows.lines[row]
            if len(found) == len(names):
                break
    return found


def _rows_with(parts: Parts, hashes: Hashes) -> Iterator[tuple[Conditions, int, int]]:
    """Rows whose id has one of these hashes (sorted): their part, their place in it, the place of the hash."""
    for rows in parts():
        cells = rows.ids if isinstance(rows.ids, Cells) else Cells.of(rows.ids)
        found = cells.hashes()
        places = np.minimum(np.searchsorted(hashes, found), len(hashes) - 1)
        for row in np.flatnonzero((hashes[places] == found) & (cells.ends > cells.starts)).tolist():
            yield rows, row, int(places[row])
