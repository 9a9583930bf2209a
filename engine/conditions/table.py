"""A condition table from whatever Python code holds: a file, rows as mappings, or nothing at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import InvalidInputError
from .cells import ID, check_ids
from .columns import ConditionRows, Conditions, blank
from .csv import RowWatch, read_conditions
from .faults import Faults
from .rules import violations

ConditionsLike = str | os.PathLike[str] | Conditions | Sequence[Mapping[str, float | str]] | None


def read_table(
    given: ConditionsLike, columns: Sequence[str], fov_mm: tuple[float, float, float], watch: RowWatch | None = None
) -> ConditionRows:
    """The wanted tumours in the order of a model's columns, checked by the rules of the CSV; None asks for nothing.

    Args:
        watch: is shown the rows of a file.

    Raises:
        InvalidInputError: all its faults.
    """
    if given is None:
        return blank(columns)
    if isinstance(given, Conditions):
        return given
    if isinstance(given, str | os.PathLike):
        return read_conditions(Path(given), columns, fov_mm, watch)
    return _read_rows(given, tuple(columns), fov_mm)


def _read_rows(
    rows: Sequence[Mapping[str, float | str]], columns: tuple[str, ...], fov_mm: tuple[float, float, float]
) -> Conditions:
    if not rows:
        raise InvalidInputError("conditions: no rows; give at least one, or None to draw everything")
    source, faults = "conditions", Faults("conditions")
    values = np.full((len(rows), len(columns)), np.nan)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            faults.add(number, "row", repr(row), "a mapping of column to number")
            continue
        for name, value in row.items():
            if name == ID:
                continue
            if name not in columns:
                faults.add(number, str(name), str(value), f"id, or a condition of this model: {', '.join(columns)}")
                continue
            try:
                values[number - 1, columns.index(name)] = float(value)
            except (TypeError, ValueError):
                faults.add(number, name, repr(value), "a number")
    ids = _ids(rows, faults)
    faults.raise_if_any()
    for violation in violations(values, columns, fov_mm):
        for row in violation.rows.tolist():
            faults.add(row + 1, violation.column, violation.value(row), violation.allowed(row))
    faults.raise_if_any()
    return Conditions(columns, ids, values, tuple(range(1, len(values) + 1)), source)


def _ids(rows: Sequence[Mapping[str, float | str]], faults: Faults) -> list[str]:
    """The id of each row, "" where it has none."""
    first: dict[str, int] = {}
    ids: list[str] = []
    for number, row in enumerate(rows, start=1):
        name = row.get(ID, "") if isinstance(row, Mapping) else ""
        if not isinstance(name, str):
            faults.add(number, ID, repr(name), "a text")
            name = ""
        elif name and first.setdefault(name, number) != number:
            faults.add(number, ID, name, f"each id once; it is already in row {first[name]}")
        ids.append(name)
    check_ids(range(1, len(ids) + 1), ids, faults)
    return ids
