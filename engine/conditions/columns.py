"""The condition table: its columns, what a model does with their numbers, and one row for every sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLUMNS = (
    "volume_ml", "surface_cm2", "sphericity", "x", "y", "z", "w", "h", "d", "ncr_share", "ed_share", "et_share",
)  # fmt: skip
SHARE_COLUMNS = COLUMNS[9:]
BINARY_COLUMNS = COLUMNS[:9]  # of a model with one tumour label
LOG_COLUMNS = ("volume_ml", "surface_cm2")

# A sphere of V ml has a surface of _SPHERE V^(2/3) cm2 (PyRadiomics: sphericity = pi^(1/3) (6 V)^(2/3) / A).
_SPHERE = math.pi ** (1 / 3) * 6 ** (2 / 3)


@dataclass(frozen=True)
class ConditionColumn:
    """How a model normalises one condition: (value - mean) / std, of the logarithm where `log` is set."""

    name: str
    log: bool
    mean: float
    std: float


@dataclass(frozen=True)
class Conditions:
    """Requested tumours, one a row; NaN where nothing is asked for."""

    columns: tuple[str, ...]
    ids: tuple[str, ...]  # "" where the file gives none
    values: NDArray[np.float64]  # (rows, len(columns))
    lines: tuple[int, ...]  # line of each row in the file, from 1
    source: str  # file name for messages

    def __len__(self) -> int:
        return len(self.ids)

    def given(self) -> str:
        """How many rows give each column, for people."""
        counts = (~np.isnan(self.values)).sum(axis=0).tolist()
        told = [f"{name} {count}" for name, count in zip(self.columns, counts, strict=True) if count]
        return ", ".join(told) or "nothing, every cell will be drawn"

    def place(self, row: int) -> str:
        """`file:line` of a row, for messages."""
        return f"{self.source}:{self.lines[row]}"


def blank(columns: Sequence[str], rows: int = 1) -> Conditions:
    """Conditions that ask for nothing: every cell will be drawn."""
    empty = np.full((rows, len(columns)), np.nan)
    return Conditions(tuple(columns), ("",) * rows, empty, tuple(range(1, rows + 1)), "no conditions")


def row_of_sample(conditions: Conditions, sample: int) -> int:
    """The row that sample number `sample` takes: rows are reused in order."""
    return sample % len(conditions)


def id_of_sample(conditions: Conditions, sample: int, given: frozenset[str] | None = None) -> str:
    """The id of sample number `sample`, the same whatever the count of the run.

    The first use of a row keeps the row's id, use n appends `-n`, a row without an id gives the sample's number. Where
    that is an id which the file itself gives to a row, underscores are appended until it is not; all ids of a run
    therefore differ. `given` is `frozenset(conditions.ids)`, for callers that ask for many samples.
    """
    return id_of_use(conditions.ids, sample, frozenset(conditions.ids) if given is None else given)


def id_of_use(ids: Sequence[str], sample: int, given: frozenset[str]) -> str:
    """`id_of_sample` from the ids of the rows alone."""
    uses, row = divmod(sample, len(ids))
    own = ids[row]
    if own and uses == 0:
        return own
    name = f"{own}-{uses + 1}" if own else str(sample)
    while name in given:
        name += "_"
    return name


def fit_columns(rows: NDArray[np.float64], names: Sequence[str]) -> tuple[ConditionColumn, ...]:
    """Normalisation constants of a training cohort: `rows` (cases, len(names)), complete and finite."""
    fitted = []
    for name, values in zip(names, np.asarray(rows, dtype=np.float64).T, strict=True):
        log = name in LOG_COLUMNS
        values = np.log(values) if log else values
        deviation = float(values.std())
        fitted.append(ConditionColumn(name, log, float(values.mean()), deviation if deviation > 1e-6 else 1.0))
    return tuple(fitted)


def normalise(rows: NDArray[np.float64], columns: Sequence[ConditionColumn]) -> NDArray[np.float32]:
    """The denoiser's `condition` input for complete rows (N, K): float32 (N, K)."""
    values = np.array(rows, dtype=np.float64)
    logs = [k for k, column in enumerate(columns) if column.log]
    values[:, logs] = np.log(values[:, logs])
    means = np.array([column.mean for column in columns])
    deviations = np.array([column.std for column in columns])
    return ((values - means) / deviations).astype(np.float32)


def sphere_surface_cm2(volume_ml: NDArray[np.float64]) -> NDArray[np.float64]:
    """Surface in cm2 of the sphere of each volume in ml."""
    return _SPHERE * np.cbrt(volume_ml) ** 2


def sphere_volume_ml(surface_cm2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Volume in ml of the sphere of each surface in cm2."""
    return (surface_cm2 / _SPHERE) ** 1.5


def view_volume_ml(field_of_view_mm: tuple[float, float, float]) -> float:
    """Volume of the field of view in ml."""
    return math.prod(field_of_view_mm) / 1000
