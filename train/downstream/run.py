"""A downstream comparison: cohorts prepared, leaks refused, segmenters trained and tested one by one, results kept."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...engine.bundle.manifest import DEFAULT_GRID, MODALITIES, Grid
from ...engine.errors import UsageError
from ...engine.files import write_atomic
from ...engine.processor import available_threads
from ...engine.scans.options import ReadOptions
from ...engine.versions import installed
from ..data.cohort import Cohort, prepare_cohort
from ..data.samples import only_scans
from ..evaluation.segmenter import Volume
from .arms import ARMS, BOTH, CARVED, SYNTHETIC, Training, TrainingCases, planned, training_cases
from .leaks import refuse_leaks, told_of_copies
from .scores import scores
from .trainers import TRAINERS, Trainer
from .work import Work

log = logging.getLogger(__name__)

RESULTS_FOLDER, SCRATCH_FOLDER = "trainings", "scratch"
RESULT_VERSION = 1  # raise it when the same training gives other scores
FEW_SEEDS, FEW_TESTS = 3, 10
QUICK_STEPS, QUICK_CASES = 80, {"--real": 24, "--synthetic": 48, "--test": 12}
QUICK_BESIDE = 16  # cases that each baseline makes


@dataclass(frozen=True)
class DownstreamOptions:
    """What `sbldm-engine downstream` was asked for."""

    real: Path
    synthetic: Path | None
    test: Path
    out: Path
    cache: Path
    read: ReadOptions  # of real and test cases
    trainer: str = "slices"
    arms: tuple[str, ...] = ARMS
    real_cases: tuple[int, ...] = ()  # numbers of real cases to train on; all of them by default
    seeds: int = 3
    steps: int | None = None  # the trainer's by default
    device: str = "auto"
    workers: int = 2
    skip_invalid: bool = False
    quick: bool = False
    grid: Grid = DEFAULT_GRID
    modalities: tuple[str, ...] = MODALITIES


@dataclass(frozen=True)
class Sides:
    """The prepared cases."""

    real: Cohort
    synthetic: Cohort | None
    test: Cohort


@dataclass(frozen=True)
class Result:
    """One trained segmenter's scores, and what it cost."""

    training: Training
    cases: tuple[str, ...]  # of the test, in order
    scores: Mapping[str, Mapping[str, Sequence[float]]]  # metric -> region -> one a test case
    cost: Mapping[str, float]  # seconds and processor seconds


@dataclass(frozen=True)
class Comparison:
    """Everything the report needs."""

    options: DownstreamOptions
    sides: Sides
    trainer: Trainer
    steps: int
    device: str
    beside: int  # cases that each baseline makes
    results: tuple[Result, ...]


def compare(options: DownstreamOptions, told: Callable[[str], None] = lambda line: None) -> Comparison:
    """Train and test every arm and seed; what is kept in `options.out` of equal trainings is not made again.

    Raises:
        UsageError: options that do not fit each other, or a trainer or device that is not there.
        InvalidInputError: faulty cases, or test cases that are in training.
    """
    trainer = _checked_trainer(options)
    steps = options.steps or (QUICK_STEPS if options.quick else trainer.steps)
    trainer.require(steps)
    device = _device(options.device)
    torch.set_num_threads(available_threads())
    sides = _prepared(options)
    counts = _real_counts(options, len(sides.real))
    beside = len(sides.real) if sides.synthetic is None else len(sides.synthetic)
    beside = min(beside, QUICK_BESIDE) if options.quick else beside
    arms = [arm for arm in options.arms if arm not in (BOTH, SYNTHETIC) or sides.synthetic is not None]
    todo = planned(arms, counts, options.seeds)
    told(f"{len(todo)} trainings of {steps} steps by {options.trainer}, {len(sides.test)} test cases")
    comparison = Comparison(options, sides, trainer, steps, device, beside, ())
    began, results = time.monotonic(), []
    for done, training in enumerate(todo, start=1):
        result = _kept_or_made(comparison, training, told)
        results.append(result)
        dice = "  ".join(f"{name} {np.mean(values):.3f}" for name, values in result.scores["dice"].items())
        left = (time.monotonic() - began) / done * (len(todo) - done)
        told(f"{done}/{len(todo)} {training.name}  Dice {dice}  about {left / 60:.0f} min left")
    return Comparison(options, sides, trainer, steps, device, beside, tuple(results))


def _checked_trainer(options: DownstreamOptions) -> Trainer:
    if options.trainer not in TRAINERS:
        raise UsageError(f"--trainer {options.trainer}: allowed {', '.join(TRAINERS)}")
    unknown = [arm for arm in options.arms if arm not in ARMS]
    if unknown or not options.arms:
        raise UsageError(f"--arms {','.join(options.arms)}: allowed {', '.join(ARMS)}")
    if options.quick and options.trainer != "slices":
        raise UsageError("--quick: takes the trainer slices")
    needing = [arm for arm in options.arms if arm in (BOTH, SYNTHETIC)]
    if needing and options.synthetic is None:
        raise UsageError(f"arm {needing[0]} needs --synthetic DIR; or leave it out of --arms")
    return TRAINERS[options.trainer]()


def _device(asked: str) -> str:
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {asked}: PyTorch finds no such device here; allowed: auto, cpu")
    return asked


def _prepared(options: DownstreamOptions) -> Sides:
    def side(option: str, folder: Path, read: ReadOptions, skip: bool) -> Cohort:
        log.info("preparing %s", folder)
        found = prepare_cohort(
            folder, options.cache, options.grid,
            modalities=options.modalities, workers=options.workers, skip_invalid=skip, options=read,
        )  # fmt: skip
        if option != "--synthetic":
            found = only_scans(found, folder, skip_invalid=skip)
        most = QUICK_CASES[option] if options.quick else len(found)
        return found if len(found) <= most else found.subset(_evenly(len(found), most))

    real = side("--real", options.real, options.read, options.skip_invalid)
    test = side("--test", options.test, options.read, options.skip_invalid)
    synthetic = None
    if options.synthetic is not None:
        synthetic = side("--synthetic", options.synthetic, ReadOptions(), True)
    training = {"--real": real} if synthetic is None else {"--real": real, "--synthetic": synthetic}
    refuse_leaks(test, training)
    if synthetic is not None and (told := told_of_copies(real, synthetic)) is not None:
        log.warning(told)
    return Sides(real, synthetic, test)


def _evenly(cases: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, cases - 1, most).round().astype(int)).tolist()


def _real_counts(options: DownstreamOptions, cases: int) -> list[int]:
    wanted = sorted(set(options.real_cases)) or [cases]
    if wanted[0] < 1 or wanted[-1] > cases:
        raise UsageError(f"--real-cases {','.join(map(str, wanted))}: must be 1 to {cases}, the cases of --real")
    if CARVED in options.arms and wanted[0] < 2:
        log.warning("arm %s: no other case to carve from with one real case; left out there", CARVED)
    return wanted


def _kept_or_made(comparison: Comparison, training: Training, told: Callable[[str], None]) -> Result:
    options, sides = comparison.options, comparison.sides
    cases = training_cases(
        training, sides.real, sides.synthetic, options.cache / "baselines", comparison.beside, options.workers
    )
    key = _key(comparison, training, cases)
    path = options.out / RESULTS_FOLDER / f"{training.name}-{key}.json"
    kept = _read(path, training)
    if kept is not None:
        return kept
    scratch = options.out / SCRATCH_FOLDER / key
    found = _made(comparison, training, cases, scratch, told)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "arm": training.arm, "real_cases": training.real_cases, "seed": training.seed, "trained_on": len(cases.cohort),
        "steps": comparison.steps, "trainer": options.trainer, "test_cases": found.cases, "scores": found.scores,
        "cost": found.cost,
    }  # fmt: skip
    write_atomic(path, json.dumps(record, indent=1, allow_nan=False).encode())
    if scratch.is_dir():
        shutil.rmtree(scratch)
    return found


def _key(comparison: Comparison, training: Training, cases: TrainingCases) -> str:
    """What a result depends on, as a short hash."""
    trainer = comparison.trainer
    told = {
        "version": RESULT_VERSION,
        "trainer": [comparison.options.trainer, trainer.settings, [installed(name) for name in trainer.packages]],
        "steps": comparison.steps,
        "seed": training.seed,
        "device": torch.device(comparison.device).type,
        "cases": [[entry.path.name, chance] for entry, chance in zip(cases.cohort.entries, cases.chances, strict=True)],
        "test": [entry.path.name for entry in comparison.sides.test.entries],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def _read(path: Path, training: Training) -> Result | None:
    """A result that was kept; None where there is none, or it is damaged."""
    try:
        record = json.loads(path.read_text("utf-8"))
        return Result(training, tuple(record["test_cases"]), record["scores"], record["cost"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _made(
    comparison: Comparison, training: Training, cases: TrainingCases, folder: Path, told: Callable[[str], None]
) -> Result:
    options, test = comparison.options, comparison.sides.test
    last = time.monotonic()

    def advance(step: int, loss: float) -> None:
        nonlocal last
        if time.monotonic() - last > 60:
            last = time.monotonic()
            told(f"  {training.name} step {step}/{comparison.steps}  loss {loss:.3f}")

    began, work = (time.monotonic(), time.process_time()), Work(
        [_volume(cases.cohort, case) for case in range(len(cases.cohort))], cases.chances, options.grid,
        options.modalities, comparison.steps, training.seed, comparison.device, folder, advance,
    )  # fmt: skip
    predict = comparison.trainer.train(work)
    trained = (time.monotonic(), time.process_time())
    found: dict[str, dict[str, list[float]]] = {}
    tests = [_volume(test, case) for case in range(len(test))]
    for predicted, (_, label) in zip(predict(image for image, _ in tests), tests, strict=True):
        for metric, regions in scores(predicted, np.asarray(label), options.grid).items():
            for region, value in regions.items():
                found.setdefault(metric, {}).setdefault(region, []).append(value)
    cost = {
        "training_s": trained[0] - began[0],
        "training_cpu_s": trained[1] - began[1],
        "testing_s": time.monotonic() - trained[0],
    }
    return Result(training, test.cases, found, {name: round(value, 2) for name, value in cost.items()})


def _volume(cohort: Cohort, case: int) -> Volume:
    """Memory-mapped image (modality, x, y, z) and label (x, y, z)."""
    return cohort.slices(case).transpose(1, 2, 3, 0), cohort.label(case).transpose(1, 2, 0)
