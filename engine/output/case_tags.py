"""What tells the cases of a run apart in file names: the sample's number, or the id of its row.

File names of a sample hold `sbldm` and its tag, so that a synthetic case is known by its name in any data set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, get_args

from ..conditions.columns import id_of_use

NameBy = Literal["sample", "id"]
NAME_BY: tuple[NameBy, ...] = get_args(NameBy)

MAX_ID = 64
ALLOWED = f"letters A-Z a-z, digits, - and _, first a letter or digit, at most {MAX_ID}, as part of a file name"
_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MAX_ID - 1}}}")
_NUMBER = re.compile(r"\d{6,}", re.ASCII)
_DIGITS = re.compile(r"\d{1,18}", re.ASCII)


class CaseTags(Protocol):
    """Tags of a run's samples; no two samples have the same."""

    def tag(self, sample: int) -> str:
        """The tag of a sample."""
        ...

    def sample(self, tag: str) -> int | None:
        """The sample that has this tag; None where none has."""
        ...


@dataclass(frozen=True)
class NumberTags:
    """The sample's number, at least six digits."""

    def tag(self, sample: int) -> str:
        """`000007`."""
        return f"{sample:06d}"

    def sample(self, tag: str) -> int | None:
        """7 for `000007`, None for `7`."""
        found = int(tag) if _NUMBER.fullmatch(tag) else None
        return found if found is not None and self.tag(found) == tag else None


@dataclass(frozen=True)
class IdTags:
    """The ids of a condition table as `id_of_use` gives them to samples."""

    ids: tuple[str, ...]  # one a row, "" where the table gives none

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {own: row for row, own in enumerate(self.ids) if own}

    @cached_property
    def _given(self) -> frozenset[str]:
        return frozenset(self.ids)

    def tag(self, sample: int) -> str:
        """The id of a sample."""
        uses, row = divmod(sample, len(self.ids))
        return id_of_use(self.ids[row], uses, sample, self._given.__contains__)

    def sample(self, tag: str) -> int | None:
        """The sample of an id: the inverse of `tag`."""
        return next((found for found in self._candidates(tag) if self.tag(found) == tag), None)

    def _candidates(self, tag: str) -> Iterator[int]:
        if tag in self._rows:
            yield self._rows[tag]
        stem = tag.rstrip("_")
        for end in range(len(stem), len(tag) + 1):  # underscores of the id itself come before those that were added
            name = tag[:end]
            if _DIGITS.fullmatch(name):
                yield int(name)
            own, dash, use = name.rpartition("-")
            if dash and own in self._rows and _DIGITS.fullmatch(use):
                yield (int(use) - 1) * len(self.ids) + self._rows[own]


def is_tag(text: str) -> bool:
    """Whether an id may be part of a file name."""
    return _ID.fullmatch(text) is not None


def id_faults(ids: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(row, what is allowed) of ids that cannot be part of file names, or that a file system may take for one another.

    Some file systems do not tell capital from small letters.
    """
    rows: dict[str, int] = {}
    for row, own in enumerate(ids):
        if own and not is_tag(own):
            yield row, ALLOWED
        elif own and rows.setdefault(own.casefold(), row) != row:
            yield row, f"an id that differs from {ids[rows[own.casefold()]]!r} by more than capital letters"
    for row, own in enumerate(ids):
        base, dash, use = own.casefold().rpartition("-")
        if dash and _DIGITS.fullmatch(use) and base in rows and own.rpartition("-")[0] != ids[rows[base]]:
            yield row, f"another id: use {use} of {ids[rows[base]]!r} has this one but for capital letters"
