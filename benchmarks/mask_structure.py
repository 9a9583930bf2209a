"""How smooth and how scattered the parts of tumours are: whole tumour, core, necrosis and enhancing rim.

python -m sbldm.benchmarks.mask_structure MASKS [MASKS ...] [--cache FOLDER]

MASKS is a cohort as `train --data` takes it, or a .npz with `label` (cases, x, y, z) on the default grid, 1 NCR, 2 ED,
3 or 4 ET. Of each, medians over its cases: sphericity of each part (1: a ball), the share of the rim in its largest
piece, and the rim's thickness, twice its volume over its surface.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..engine.bundle.manifest import DEFAULT_GRID
from ..engine.output.measure import measure_tumour
from ..train.data.cohort import prepare_cohort
from .phantom_masks import load_masks

PARTS = {"WT": (1, 2, 3), "TC": (1, 3), "NCR": (1,), "ET": (3,)}
HEADER = "| masks | cases | sphericity WT, TC, NCR, ET | rim: largest piece | thickness, mm |"
LINE = "| --- | --- | --- | --- | --- |"

Label = NDArray[np.uint8]


def structure(label: Label, spacing_mm: tuple[float, float, float]) -> dict[str, float]:
    """Figures of one label (x, y, z); NaN of a part that it has not."""
    parts = {name: measure_tumour(np.isin(label, of).astype(np.uint8), spacing_mm) for name, of in PARTS.items()}
    rim = parts["ET"]
    return {
        **{name: part.sphericity for name, part in parts.items()},
        "piece": rim.largest_piece_share,
        "thickness": 20 * rim.volume_ml / rim.surface_cm2 if rim.surface_cm2 else np.nan,
    }


def row(name: str, labels: Iterator[Label], spacing_mm: tuple[float, float, float]) -> str:
    """A row of the table."""
    found = [structure(label, spacing_mm) for label in labels]
    middle = {key: float(np.nanmedian([one[key] for one in found])) for key in found[0]}
    balls = ", ".join(f"{middle[part]:.2f}" for part in PARTS)
    return f"| {name} | {len(found)} | {balls} | {middle['piece']:.2f} | {middle['thickness']:.1f} |"


def labels_of(masks: Path, cache: Path) -> Iterator[Label]:
    """Labels (x, y, z) with 1 NCR, 2 ED, 3 ET of a cohort or a .npz."""
    if masks.suffix == ".npz":
        yield from load_masks(masks)
        return
    cohort = prepare_cohort(masks, cache, DEFAULT_GRID)
    for case in cohort.cases:
        yield np.asarray(cohort.label(case).transpose(1, 2, 0))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("masks", type=Path, nargs="+")
    parser.add_argument("--cache", type=Path, default=None, help="folder of the prepared cohorts")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sbldm-masks-") as folder:
        print(f"{HEADER}\n{LINE}")
        for masks in given.masks:
            print(row(masks.name, labels_of(masks, given.cache or Path(folder)), DEFAULT_GRID.spacing_mm), flush=True)


if __name__ == "__main__":
    main()
