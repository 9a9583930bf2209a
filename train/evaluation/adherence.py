"""Requested against measured conditions of a run, from its manifest."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...engine.conditions.columns import COLUMNS
from ...engine.errors import InvalidInputError
from ...engine.run.manifest import read_manifest as read_rows


def requested_and_measured(path: Path) -> dict[str, NDArray[np.float64]]:
    """Column -> (samples, 2) of requested and measured values, for the condition columns that the manifest holds."""
    try:
        rows = list(read_rows(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{path}: not readable as CSV ({error})") from error
    if not rows:
        raise InvalidInputError(f"{path}: holds no sample")
    values: dict[str, NDArray[np.float64]] = {}
    for name in COLUMNS:
        pair = (f"requested_{name}", f"measured_{name}")
        if not all(column in rows[0] for column in pair):
            continue
        values[name] = np.array([[_number(path, line, c, row[c]) for c in pair] for line, row in enumerate(rows, 2)])
    if not values:
        raise InvalidInputError(f"{path}: has no pair of columns such as requested_volume_ml and measured_volume_ml")
    return values


def _number(path: Path, line: int, column: str, text: str | None) -> float:
    if text is None or text == "":
        return float("nan")
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(f"{path}:{line}: {column}: {text!r} is not a number") from error
