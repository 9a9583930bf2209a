"""Collect what is wrong with a file and raise it as one error."""

from __future__ import annotations

import bisect

from ..errors import InvalidInputError

_WIDTH = 40  # characters of a wrong value that are told


def shown(value: str) -> str:
    """A wrong value as messages print it: one line, cut where it is long."""
    text = value if value.isprintable() else ascii(value)[1:-1]
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}... ({len(value)} characters)"


class Faults:
    """Faults of one file: the first LIMIT by line are told, all are counted; memory does not grow with their number."""

    LIMIT = 20

    def __init__(self, source: str) -> None:
        self._source = source
        self._count = 0
        self._told: list[tuple[int, int, str]] = []  # line, order of arrival, message

    @property
    def source(self) -> str:
        """The file's name, for messages."""
        return self._source

    @property
    def total(self) -> int:
        """How many faults there are by now."""
        return self._count

    def add(self, line: int, column: str, value: str, allowed: str) -> None:
        """A fault at a line (from 1): `file:line: column: value: what is allowed`."""
        self._count += 1
        if len(self._told) < self.LIMIT or line < self._told[-1][0]:
            self._keep(line, f"{self._source}:{line}: {shown(column)}: {shown(value)}: {allowed}")

    def count(self, more: int) -> None:
        """Further faults of a kind of which LIMIT, at earlier lines, have been added."""
        self._count += max(0, more)

    def absorb(self, other: Faults) -> None:
        """All faults of a later part of the same file."""
        for line, _, message in other._told:
            self._count += 1
            self._keep(line, message)
        self._count += other._count - len(other._told)

    def raise_if_any(self) -> None:
        """Raise InvalidInputError with the faults, one a line, if there are any."""
        if not self._count:
            return
        lines = [message for _, _, message in self._told]
        if self._count > len(lines):
            lines.append(f"{self._source}: {self._count} faults in all, the first {len(lines)} are shown")
        raise InvalidInputError("\n".join(lines))

    def _keep(self, line: int, message: str) -> None:
        bisect.insort(self._told, (line, self._count, message))
        del self._told[self.LIMIT :]
