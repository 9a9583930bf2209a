"""The condition table: its columns, what a model does with their numbers, and one row for every sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

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


class ConditionRows(Protocol):
    """Requested tumours, one a row, in memory or in a file."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values."""
        ...

    def __len__(self) -> int: ...

    def at(self, row: int) -> tuple[str, NDArray[np.float64]]:
        """Id ("" where none is given) and values (len(columns),) of a row; NaN where nothing is asked for."""
        ...

    def has_id(self, name: str) -> bool:
        """Whether a row has this id."""
        ...

    @property
    def source(self) -> str:
        """File name for messages."""
        ...

    def line(self, row: int) -> int:
        """Line of a row in its file, from 1."""
        ...


@dataclass(frozen=True)
class Conditions:
    """Requested tumours in memory; NaN where nothing is asked for."""

    columns: tuple[str, ...]
    ids: Sequence[str]  # "" where the file gives none
    values: NDArray[np.float64]  # (rows, len(columns))
    lines: Sequence[int]  # line of each row in the file, from 1
    source: str  # file name for messages

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, row: int) -> tuple[str, NDArray[np.float64]]:
        """Id and values of a row."""
        return self.ids[row], self.values[row]

    def has_id(self, name: str) -> bool:
        """Whether a row has this id."""
        return name in self._ids

    def line(self, row: int) -> int:
        """Line of a row in its file, from 1."""
        return self.lines[row]

    def place(self, row: int) -> str:
        """`file:line` of a row, for messages."""
        return f"{self.source}:{self.lines[row]}"

    @cached_property
    def _ids(self) -> frozenset[str]:
        return frozenset(self.ids)


def blank(columns: Sequence[str], rows: int = 1) -> Conditions:
    """Conditions that ask for nothing: every cell will be drawn."""
    empty = np.full((rows, len(columns)), np.nan)
    return Conditions(tuple(columns), ("",) * rows, empty, tuple(range(1, rows + 1)), "no conditions")


def request_of_sample(conditions: ConditionRows, sample: int) -> tuple[str, NDArray[np.float64]]:
    """Id and values of sample number `sample`, the same whatever the count of the run; rows are reused in order.

    The first use of a row keeps the row's id, use n appends `-n`, a row without an id gives the sample's number. Where
    that is an id which the file itself gives to a row, underscores are appended until it is not; all ids of a run
    therefore differ.
    """
    uses, row = divmod(sample, len(conditions))
    own, values = conditions.at(row)
    return id_of_use(own, uses, sample, conditions.has_id), values


def id_of_use(own: str, uses: int, sample: int, given: Callable[[str], bool]) -> str:
    """The id of a sample whose row has the id `own` ("" for none) and was used `uses` times before.

    `given`: whether a row has an id.
    """
    if own and uses == 0:
        return own
    name = f"{own}-{uses + 1}" if own else str(sample)
    while given(name):
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
