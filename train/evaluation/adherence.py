"""Requested against measured conditions of a run, from its manifest."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...engine.conditions.columns import COLUMNS
from ...engine.errors import InvalidInputError
from ...engine.run.manifest import read_manifest as read_rows
from . import bootstrap

RELATIVE = ("volume_ml", "surface_cm2")  # whose errors are shares of what was asked for


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


def errors(pairs: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Bias and scatter of each condition apart, with their intervals: mean and deviation of measured less requested.

    `pairs` is what `requested_and_measured` gives. Of volume and surface the error is relative (`RELATIVE`), of the
    others in the column's own unit; `absolute` is the mean of its absolute value, `r` Pearson's correlation.
    """
    figures: dict[str, Any] = {}
    for name, both in pairs.items():
        known = both[np.isfinite(both).all(axis=1)]
        requested, measured = known.T
        error = measured - requested
        if name in RELATIVE:
            error = error[requested > 0] / requested[requested > 0]
        figures[name] = {
            "relative": name in RELATIVE,
            "bias": bootstrap.mean(error),
            "scatter": bootstrap.of_one(error, lambda drawn: drawn.std(axis=-1)),
            "absolute": bootstrap.mean(np.abs(error)),
            "r": _correlation(known),
        }
    return figures


def _correlation(pairs: NDArray[np.float64]) -> bootstrap.Figure:
    """Pearson's r of (samples, 2); no value where a side does not vary."""
    if len(pairs) < 2:
        return bootstrap.figure(float("nan"), np.empty(0), len(pairs))
    drawn = pairs[np.vstack([np.arange(len(pairs)), bootstrap.resampled(len(pairs))])]
    centred = drawn - drawn.mean(axis=1, keepdims=True)
    norms = np.sqrt(np.square(centred).sum(axis=1))
    varied = (norms > 1e-12).all(axis=1)
    r = np.full(len(drawn), np.nan)
    np.divide(centred.prod(axis=2).sum(axis=1), norms.prod(axis=1), out=r, where=varied)
    return bootstrap.figure(float(r[0]), r[1:], len(pairs))


def _number(path: Path, line: int, column: str, text: str | None) -> float:
    if text is None or text == "":
        return float("nan")
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(f"{path}:{line}: {column}: {text!r} is not a number") from error
