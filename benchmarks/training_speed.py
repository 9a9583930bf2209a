"""Slices, crops or volumes a second of each training stage, on random data of a preset's real grid.

python -m sbldm.benchmarks.training_speed [--preset phantom] [--steps 5] [--precision auto] [--autocast]
                                          [--data DIR]

Each stage runs as `sbldm-engine train` runs it, but for a few steps and without previews; a figure is the median over
the steps after the first. With --data also the seconds that preparing a case of that cohort takes on one core. The
last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray

from ..engine.bundle.manifest import Grid
from ..engine.conditions.columns import COLUMNS
from ..engine.errors import SbldmError
from ..engine.output.measure import measure_tumour
from ..engine.processor import cpu_name
from ..train.config import AnySystem, MaskFirstConfig, load_preset
from ..train.data.cohort import CachedCase, Cohort, prepare_cohort
from ..train.latents import MIRRORS
from ..train.mask_first import MaskFirstData, MaskFirstTrainer
from ..train.objectives.refiner import REFINER_SLICES
from ..train.precision import AUTO, training_precision
from ..train.run import has_half_weights
from ..train.stage import StageRun
from ..train.system import SystemTrainer, planned_stages
from ..train.trainer import Trainer
from .machine import OtherLoad, find_gpu

CASES = 3  # random ones; enough for the statistics of the stages
NEVER = 1e9  # seconds between checkpoints


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="phantom")
    parser.add_argument("--steps", type=int, default=5, help="timed steps a stage, 1 or more")
    parser.add_argument("--precision", default=AUTO)
    parser.add_argument("--autocast", action="store_true", help="float32 weights where training takes 16-bit ones")
    parser.add_argument("--data", type=Path, default=None, help="cohort whose preparation is timed")
    given = parser.parse_args(arguments)
    if given.steps < 1:
        parser.error("--steps must be 1 or more")
    try:
        figures = measure(given.preset, given.steps, given.precision, given.data, autocast=given.autocast)
    except SbldmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for name, value in figures.items():
        print(f"{name}: {value}")
    print(json.dumps(figures))
    return 0


def measure(preset: str, steps: int, precision: str, data: Path | None, *, autocast: bool = False) -> dict[str, object]:
    """The machine, the rate of every stage and, with `data`, the seconds that preparing a case takes."""
    config, load, precision = load_preset(preset), OtherLoad(), training_precision(precision)
    figures: dict[str, object] = {
        "preset": config.preset,
        "cpu": cpu_name(),
        "gpu": gpu.name if (gpu := find_gpu("cpu")) and torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "precision": precision,
        "autocast": autocast,
    }
    with tempfile.TemporaryDirectory(prefix="sbldm-training-") as folder:
        figures |= stage_rates(config, Path(folder), steps, precision, autocast=autocast)
        if data is not None:
            figures["preparing_seconds_a_case"] = preparing_seconds(config, data, Path(folder) / "cache")
    return {**figures, "other_cores": round(load.cores(), 2)}


def stage_rates(
    config: AnySystem, folder: Path, steps: int, precision: str, *, autocast: bool = False
) -> dict[str, float]:
    """Slices, crops or volumes a second of every stage, and of encoding the cohort in between; keys name the unit."""
    seconds = step_seconds(config, folder, steps, precision, autocast=autocast)
    batch = {name: stage.batch_size for name, stage in config.stages.items()}
    refined = batch.get("refiner", 0)
    crops, refining = "slices", ("slices", refined * min(REFINER_SLICES, config.grid.shape[2]))
    if isinstance(config, MaskFirstConfig):
        crops, refining = "crops", ("crops", refined)
    made = {
        "autoencoder": (crops, batch["autoencoder"]),
        "mask": ("volumes", batch.get("mask", 0)),
        "encode": ("volumes", MIRRORS),
        "aggregator": ("volumes", batch.get("aggregator", 0)),
        "denoiser": ("volumes", batch["denoiser"]),
        "distill": ("volumes", batch.get("distill", 0)),
        "refiner": refining,
    }
    return {
        f"{stage}_{made[stage][0]}_per_second": round(made[stage][1] / median, 3) for stage, median in seconds.items()
    }


def step_seconds(
    config: AnySystem,
    folder: Path,
    steps: int,
    precision: str,
    *,
    autocast: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of a step of every stage, its first left out, and of encoding a case, on random data.

    By another `clock`, such as the processor time of this process, they are those of that clock.
    """
    fabric = Fabric(accelerator="auto", devices=1, precision=precision)  # pyright: ignore[reportArgumentType]
    ticks: dict[str, list[float]] = {"encode": []}

    def report(stage: str, *_: object) -> None:
        ticks.setdefault(stage, []).append(clock())

    def encoding(done: int, total: int) -> None:
        ticks["encode"].append(clock())

    few = {name: dataclasses.replace(stage, steps=steps + 1) for name, stage in config.stages.items()}
    short = dataclasses.replace(config, stages=few)
    half = has_half_weights(short, fabric, precision) and not autocast
    run = StageRun(
        fabric, folder / "training", 0, report, save_seconds=NEVER, log_every=1, previews=False, half_weights=half
    )
    cohort = random_cohort(config, folder / "cases")
    if isinstance(short, MaskFirstConfig):
        nothing = cohort.subset([])
        trainer: Trainer = MaskFirstTrainer(short, MaskFirstData(cohort, nothing, None), run, lambda *_: None)
    else:
        trainer = SystemTrainer(short, cohort, run, encoding)
    trainer.start()
    for stage in planned_stages(short, "all"):
        trainer.train(stage)
    return {
        stage: statistics.median(b - a for a, b in pairwise(times)) for stage, times in ticks.items() if len(times) > 1
    }


def preparing_seconds(config: AnySystem, data: Path, cache: Path) -> float:
    """Seconds a case of `data` on one core, from files to the cache; InvalidInputError where cases are faulty."""
    start = time.perf_counter()
    cohort = prepare_cohort(data, cache, config.grid, modalities=config.modalities)
    return round((time.perf_counter() - start) / len(cohort), 3)


def random_cohort(config: AnySystem, folder: Path) -> Cohort:
    """Noise inside of a ball, with a smaller ball of three tissues, in the form that the stages read."""
    folder.mkdir(parents=True)
    entries = []
    for case in range(CASES):
        image, label = _random_case(config.grid, len(config.modalities), case)
        path = folder / f"case-{case}.npy"
        np.save(path, np.concatenate([image, label[:, None]], axis=1))
        measured = measure_tumour(np.moveaxis(label, 0, -1), config.grid.spacing_mm).vector(COLUMNS)
        entries.append(CachedCase(f"case-{case}", path, (1.0,) * len(config.modalities), tuple(measured.tolist())))
    return Cohort(config.grid, config.modalities, tuple(entries))


def _random_case(grid: Grid, modalities: int, case: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Stored images (z, modality, x, y) and label (z, x, y)."""
    rng = np.random.default_rng(case)
    x, y, z = (np.linspace(-1, 1, n) for n in grid.shape)
    place = rng.uniform(-0.2, 0.2, 3)

    def radius(centre: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
        along = (z - centre[2])[:, None, None] ** 2, (x - centre[0])[None, :, None] ** 2, (y - centre[1]) ** 2
        return np.sqrt(along[0] + along[1] + along[2])

    size = rng.uniform(0.3, 0.5)
    tumour = radius(place) / size
    label = np.select([tumour < 0.4, tumour < 0.7, tumour < 1.0], [1, 3, 2], 0).astype(np.uint8)
    noise = rng.integers(1, 256, (grid.shape[2], modalities, *grid.shape[:2]), dtype=np.uint8)
    return np.where((radius((0, 0, 0)) < 0.8)[:, None] | (label[:, None] > 0), noise, np.uint8(0)), label


if __name__ == "__main__":
    sys.exit(main())
