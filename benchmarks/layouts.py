"""What the files of one sample cost in each layout: made and written to a disk, on the default grid.

python -m sbldm.benchmarks.layouts [--repeats N] [--directory DIR]

Prints a JSON line: medians of wall-clock seconds and of CPU seconds a sample, by layout; the first sample, which loads
libraries, is left out. The images are a noisy ellipsoid with a tumour, so that they compress about as brains do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ..engine.bundle.manifest import DEFAULT_GRID, MODALITIES
from ..engine.dicom.about import CaseAbout
from ..engine.folder import Folder
from ..engine.output.case_files import case_files
from ..engine.output.layouts import make_layout
from ..engine.run.writer import write_files

LABELS = ("background", "ncr", "ed", "et")
LAYOUTS = ("brats", "dicom")


def volume() -> tuple[np.ndarray, np.ndarray]:
    """(modality, x, y, z) int16 and (x, y, z) uint8."""
    shape = DEFAULT_GRID.shape
    away = [np.linspace(-1, 1, n).reshape([-1 if axis == k else 1 for k in range(3)]) for axis, n in enumerate(shape)]
    radius = np.sqrt(sum((a / r) ** 2 for a, r in zip(away, (0.72, 0.9, 0.85), strict=True)))
    tumour = np.sqrt(sum((a - 0.2) ** 2 for a in away))
    noise = np.random.default_rng(0).normal(0, 25, (len(MODALITIES), *shape))
    image = np.where(radius < 1, 450 + 150 * np.cos(9 * radius) + noise, 0).clip(0, 1000).astype(np.int16)
    return image, np.select([tumour < 0.08, tumour < 0.15, tumour < 0.25], [1, 3, 2], 0).astype(np.uint8)


def seconds(layout: str, folder: Path, repeats: int) -> dict[str, float]:
    """Of a layout: medians of wall clock, CPU, wall clock before the disk; the best wall clock of a busy machine."""
    image, label = volume()
    made = make_layout(layout, MODALITIES, LABELS, slices=DEFAULT_GRID.shape[2])
    wall, cpu, encode = list[float](), list[float](), list[float]()
    with Folder(folder) as out:
        for sample in range(repeats + 1):
            about = CaseAbout("benchmark", "none", "00" * 32, 0, sample, ())
            start, cpu_start = time.perf_counter(), time.process_time()
            files = case_files(image, label, DEFAULT_GRID, made, about, None)
            encode.append(time.perf_counter() - start)
            write_files(out, files)
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - cpu_start)
    parts = {"wall_s": wall, "cpu_s": cpu, "encode_s": encode}
    medians = {name: round(statistics.median(values[1:]), 3) for name, values in parts.items()}
    return {**medians, "best_wall_s": round(min(wall[1:]), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--directory", type=Path, help="on the disk that is measured")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.directory) as scratch:
        found = {}
        for layout in LAYOUTS:
            folder = Path(scratch) / layout
            folder.mkdir()
            found[layout] = seconds(layout, folder, asked.repeats)
    more = {name: round(found["dicom"][name] - found["brats"][name], 3) for name in found["dicom"]}
    print(json.dumps({**found, "more": more}))


if __name__ == "__main__":
    main()
