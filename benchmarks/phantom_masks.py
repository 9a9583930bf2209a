"""How far the tumours of a cohort are from real ones in number, shape and place.

python -m sbldm.benchmarks.phantom_masks COHORT MASKS.npz

COHORT is a folder in BraTS layout (`sbldm-engine phantom`); MASKS.npz holds `label` (cases, x, y, z) on the default
grid with 1 NCR, 2 ED, 4 ET. Of each condition column: both medians, the Kolmogorov-Smirnov distance and its p-value,
and the energy distance (Szekely; 0 where the distributions agree) of the values over their pooled deviation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import energy_distance, ks_2samp

from ..engine.bundle.manifest import DEFAULT_GRID
from ..engine.conditions.columns import COLUMNS
from ..engine.errors import InvalidInputError
from ..engine.output.measure import measure_tumour
from ..engine.scans.measure import measure_cohort


def load_masks(path: Path) -> NDArray[np.uint8]:
    """Labels (masks, x, y, z) of the file: 1 NCR, 2 ED, 3 ET.

    Raises:
        InvalidInputError: the file holds no such masks.
    """
    with np.load(path, allow_pickle=False) as held:
        if "label" not in held or held["label"].shape[1:] != DEFAULT_GRID.shape:
            raise InvalidInputError(f"{path}: holds no array `label` of shape (masks, {DEFAULT_GRID.shape})")
        labels = held["label"]
    return np.where(labels == 4, np.uint8(3), labels)


def measure_masks(path: Path) -> NDArray[np.float64]:
    """(masks, 12): `COLUMNS` of every mask of a file as `load_masks` takes it."""
    return np.array([measure_tumour(label, DEFAULT_GRID.spacing_mm).vector(COLUMNS) for label in load_masks(path)])


def two_samples(first: NDArray[np.float64], second: NDArray[np.float64]) -> dict[str, tuple[float, ...]]:
    """Of each column of (cases, 12): both medians, KS distance, its p-value, energy distance over the deviation."""
    found = {}
    for name, a, b in zip(COLUMNS, first.T, second.T, strict=True):
        test = ks_2samp(a, b)
        spread = float(np.concatenate([a, b]).std()) or 1.0
        energy = float(energy_distance(a / spread, b / spread))
        found[name] = (float(np.median(a)), float(np.median(b)), float(test.statistic), float(test.pvalue), energy)  # pyright: ignore[reportAttributeAccessIssue]
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("masks", type=Path)
    given = parser.parse_args()
    x, y, z = (size * step for size, step in zip(DEFAULT_GRID.shape, DEFAULT_GRID.spacing_mm, strict=True))
    cohort = measure_cohort(given.cohort, COLUMNS, (x, y, z)).rows
    masks = measure_masks(given.masks)
    table = Table(title=f"{len(cohort)} tumours of {given.cohort} against {len(masks)} masks")
    for heading in ("column", "cohort", "masks", "KS", "p", "energy"):
        table.add_column(heading, justify="right")
    for name, row in two_samples(cohort, masks).items():
        table.add_row(name, *(f"{value:.3g}" for value in row))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
