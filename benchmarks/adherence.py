"""How well the tumours of a run follow their conditions: a table, Pearson's r and median errors.

sbldm-engine generate --conditions benchmarks/adherence.csv --out runs/adherence
python -m sbldm.benchmarks.adherence runs/adherence
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from ..engine.conditions.columns import COLUMNS
from ..engine.errors import InvalidInputError


def read_pairs(manifest: Path) -> dict[str, NDArray[np.float64]]:
    """Requested and measured values (samples, 2) of every column that the run's manifest has.

    Raises:
        InvalidInputError: the file cannot be read or holds no sample.
    """
    try:
        with manifest.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
    except OSError as error:
        raise InvalidInputError(f"{manifest}: cannot be read ({error.strerror}); is the run finished?") from error
    if not rows:
        raise InvalidInputError(f"{manifest}: holds no sample")
    names = [name for name in COLUMNS if f"requested_{name}" in rows[0]]
    return {
        n: np.array([[float(r[f"requested_{n}"] or "nan"), float(r[f"measured_{n}"] or "nan")] for r in rows])
        for n in names
    }


def main(run: Path) -> None:
    """Print the table of a run directory."""
    pairs = read_pairs(run / "manifest.csv")
    table = Table(title=f"requested -> measured, {run.name}")
    for name in pairs:
        table.add_column(name, justify="right")
    for sample in range(len(next(iter(pairs.values())))):
        table.add_row(*(f"{p[sample, 0]:.3g} -> {p[sample, 1]:.3g}" for p in pairs.values()))
    table.add_section()
    table.add_row(*(f"r {correlation(p):.3f}" for p in pairs.values()))
    table.add_row(*(f"error {median_error(p):.1%}" for p in pairs.values()))
    Console(width=220).print(table)


def correlation(pair: NDArray[np.float64]) -> float:
    """Pearson's r of requested and measured (samples, 2), samples without a measurement left out."""
    whole = pair[np.isfinite(pair).all(axis=1)]
    return float(np.asarray(np.corrcoef(whole.T))[0, 1])


def median_error(pair: NDArray[np.float64]) -> float:
    """Median of |measured - requested| / requested."""
    return float(np.nanmedian(np.abs(pair[:, 1] - pair[:, 0]) / pair[:, 0]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
