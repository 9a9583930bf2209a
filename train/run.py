"""A training run from the command line: plan, prepare the cohort, train the stages with progress."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from rich.console import Console

from ..engine.conditions.columns import COLUMNS, SHARE_COLUMNS, ConditionColumn
from ..engine.errors import InvalidInputError, UsageError
from ..engine.processor import available_threads, has_bf16
from ..engine.scans.discover import discover_cases
from ..engine.scans.options import ReadOptions
from ..engine.screen import counted
from .build import system_latent_shape
from .checkpoint import read_json
from .config import AnySystem, MaskFirstConfig
from .data.cohort import WHOLE, Cohort, Progress, Share, prepare_cohort
from .data.copies import add_copies
from .data.phantoms import add_phantoms, check_phantoms_fit
from .data.samples import tell_of_samples
from .data.twins import refuse_twins
from .faults import machine_faults
from .footprint import network_costs, stage_memory
from .guards import cohort_digest
from .latents import condition_names
from .lock import RANKS, disk_errors, is_beside_others, require_own, writing_to
from .mask_first import MaskFirstData, MaskFirstTrainer
from .precision import MIXED, training_precision
from .ranks import LastWords, machines
from .stage import StageRun, rate_of_batches
from .system import SystemTrainer, planned_stages
from .trainer import Trainer
from .warm_start import check_start

KEPT = ("last", "best")  # weights of a stage
FEW_CASES = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOptions:
    """What `sbldm-engine train` was asked for."""

    data: Path
    out: Path
    stage: str
    cache: Path
    held_out: int
    seed: int
    devices: int
    precision: str
    workers: int
    skip_invalid: bool
    read: ReadOptions
    restart: tuple[str, ...] = ()  # stages to make again from nothing
    keep_stale: bool = False  # keep stages whose earlier stages have changed since
    masks: Path | None = None  # .npz of masks without images, for the mask stage
    add_phantoms: int = 0
    start_from: Path | None = None  # training directory whose weights the stages begin with
    accumulate: int = 1  # batches whose gradients a device adds up before a step
    keep: str = "last"  # or best: of the averages, by held-out cases
    patience: int = 0  # looks at held-out cases without a better one after which a stage ends; 0: never
    compile: bool = False


def with_steps(config: AnySystem, overrides: Sequence[str]) -> AnySystem:
    """The configuration with other numbers of steps, each given as STAGE=N.

    Raises:
        UsageError: an override that is not of that form or names no stage of the preset.
    """
    stages = dict(config.stages)
    for override in overrides:
        name, _, number = override.partition("=")
        if name not in stages or not number.isdigit() or int(number) < 1:
            raise UsageError(
                f"--steps {override}: must be STAGE=N with a stage of {', '.join(stages)} and N at least 1"
            )
        stages[name] = dataclasses.replace(stages[name], steps=int(number))
    return dataclasses.replace(config, stages=stages)


def plan(config: AnySystem, stage: str, devices: int = 1, accumulate: int = 1) -> str:
    """The networks with their cost and the stages to run with their memory, as text; no data is touched.

    `devices` are those of all machines.
    """
    batches = devices * accumulate
    columns = [ConditionColumn(name, False, 0.0, 1.0) for name in condition_names(config)]
    lines = [f"preset {config.preset}: grid {config.grid.shape}, Z {system_latent_shape(config)}"]
    if isinstance(config, MaskFirstConfig) and config.augmentation.copies:
        lines.append(f"  {config.augmentation.copies} varied copies of each real scan")
    for network in network_costs(config, columns):
        figures = f"{network.parameters / 1e6:8.2f} M parameters {network.gmac:9.2f} GMAC a {network.unit}"
        lines.append(f"  {network.name:<12} {figures}")
    for name in planned_stages(config, stage):
        s, memory = config.stages[name], stage_memory(config, name, columns)
        lines.append(f"stage {name}: {s.steps} steps of {s.batch_size}, learning rate {s.learning_rate:g}")
        if batches > 1:
            rate = s.learning_rate * rate_of_batches(batches)
            lines[-1] += (
                f" x sqrt({batches}) = {rate:.3g}: {batches * s.batch_size} a step, "
                f"{s.batch_size} x {accumulate} on each of {devices} devices"
            )
        if memory.weights:
            lines.append(
                f"  about {memory.total / 2**30:.2f} GiB in float32: weights, gradients, Adam, moving average "
                f"{memory.weights / 2**30:.2f}, activations of a batch {memory.activations / 2**30:.2f}"
            )
    return "\n".join(lines)


def progress(directory: Path, config: AnySystem) -> str:
    """The steps that each stage of a training directory has saved, as text."""
    found = []
    for stage, settings in config.stages.items():
        path = directory / stage / "state.json"
        if path.is_file():
            state = read_json(path)
            early = " (ended early)" if state.get("stopped") else ""
            found.append(f"{stage} {state['step']}/{settings.steps}{early}")
    return ", ".join(found) or "nothing yet"


def _trainer(config: AnySystem, cases: Cases, options: TrainOptions, run: StageRun, encoding: Progress) -> Trainer:
    keep, start = options.keep_stale, options.start_from
    if isinstance(config, MaskFirstConfig):
        data = MaskFirstData(cases.training, cases.held_out, options.masks)
        return MaskFirstTrainer(config, data, run, encoding, keep_stale=keep, start_from=start)
    return SystemTrainer(
        config, cases.training, run, encoding, held_out=cases.held_out, keep_stale=keep, start_from=start
    )


def _require_tissues(config: AnySystem, cohort: Cohort, data: Path) -> None:
    if config.classes > 2 and np.isnan(cohort.conditions).any():
        raise InvalidInputError(
            f"{data}: its masks tell one tumour label, the preset {config.preset} learns {', '.join(config.tissues)}; "
            "take a preset with tissues: [wt], or say what the numbers mean: --labels "
            '"necrosis=1,oedema=2,enhancing=3"'
        )


def run_training(config: AnySystem, options: TrainOptions) -> None:
    """Prepare the cohort and train the planned stages.

    Raises:
        InvalidInputError: faults of the cohort, phantoms that do not fit it, or a directory of another configuration.
        UsageError: a precision or device that is not there, or the directory cannot be written or is being trained in.
        IncompleteRunError: the disk is full, memory ran out, or a process beside this one ended; what was saved can be
            gone on with.
    """
    stages = planned_stages(config, options.stage)
    for name in options.restart:
        planned_stages(config, name)
    options = dataclasses.replace(options, precision=training_precision(options.precision))
    require_own(options.out)
    _check_validation(options)
    if options.masks is not None and not isinstance(config, MaskFirstConfig):
        raise UsageError(f"--masks: preset {config.preset} has no mask stage")
    if options.masks is not None and not options.masks.is_file():
        raise InvalidInputError(f"--masks {options.masks}: no such file, or no regular one")
    if options.held_out:  # before hours of preparation
        _require_some_to_train_on(options, len(discover_cases(options.data, config.modalities, options.read).cases))
    check_phantoms_fit(
        options.data, config.modalities, options.add_phantoms, options.read, one_tissue=config.classes == 2
    )
    if options.start_from is not None:
        check_start(options.start_from, options.out, config)
    fabric = launched(options)
    if not fabric.is_global_zero:
        logging.getLogger(__package__).setLevel(logging.ERROR)  # the first process tells the rest
    ranks = LastWords(options.out, fabric.global_rank, fabric.world_size)
    with machine_faults(ranks):
        with disk_errors(options.out):
            cases = _prepared(config, options, fabric)
        with writing_to(options.out):
            _train(config, options, stages, cases, fabric)


def _require_some_to_train_on(options: TrainOptions, cases: int) -> None:
    if cases <= options.held_out:
        raise InvalidInputError(
            f"{options.data}: --held-out {options.held_out} leaves none to train on, it has {counted(cases, 'case')}; "
            f"hold out {cases - 1} at most"
        )


def _check_validation(options: TrainOptions) -> None:
    if options.keep not in KEPT:
        raise UsageError(f"--keep {options.keep}: allowed {', '.join(KEPT)}")
    if options.patience and options.keep != "best":
        raise UsageError("--patience: a stage that ends early ends with its best weights; give --keep best")
    if options.keep == "best" and not options.held_out:
        raise UsageError("--keep best: chooses by held-out cases; give --held-out N")


@dataclass(frozen=True)
class Cases:
    """The prepared cases of a training run."""

    training: Cohort
    held_out: Cohort


def _prepared(config: AnySystem, options: TrainOptions, fabric: Fabric) -> Cases:
    console = Console(stderr=True, quiet=not fabric.is_global_zero)
    cohort = _shared(
        fabric,
        lambda share: prepare_cohort(
            options.data, options.cache, config.grid, modalities=config.modalities, workers=options.workers,
            skip_invalid=options.skip_invalid, options=options.read, share=share,
        ),
    )  # fmt: skip
    read_as = f"{options.data}: {counted(len(cohort), 'case')}, read as {cohort.convention}"
    console.print(read_as, highlight=False, markup=False, soft_wrap=True)
    _require_tissues(config, cohort, options.data)
    tell_of_samples(cohort, options.data)
    _require_some_to_train_on(options, len(cohort))
    kept = len(cohort) - options.held_out
    training, held_out = cohort.subset(range(kept)), cohort.subset(range(kept, len(cohort)))
    refuse_twins(held_out, training, str(options.data), "remove one of each")
    seed, workers = options.seed, options.workers
    if isinstance(config, MaskFirstConfig):
        told = _counted(console, "varied copies")
        of, settings = training, config.augmentation
        training = _shared(
            fabric,
            lambda share: add_copies(of, options.cache, settings, seed, workers=workers, progress=told, share=share),
        )
    made, before = _counted(console, "phantoms"), training
    training = _shared(
        fabric,
        lambda share: add_phantoms(
            before, options.cache, options.add_phantoms, seed, workers=workers, progress=made, share=share
        ),
    )
    return Cases(training, held_out)


def _shared(fabric: Fabric, make: Callable[[Share], Cohort]) -> Cohort:
    """What `make` makes of everything, after each of several processes has made its share into the cache."""
    if fabric.world_size > 1:
        make(Share(fabric.global_rank, fabric.world_size))
        fabric.barrier()
    with fabric.rank_zero_first():
        return make(WHOLE)


def _counted(console: Console, what: str) -> Progress:
    def told(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            console.print(f"{what} {done}/{total}", highlight=False)

    return told


def _train(config: AnySystem, options: TrainOptions, stages: tuple[str, ...], cases: Cases, fabric: Fabric) -> None:
    console, training = Console(stderr=True, quiet=not fabric.is_global_zero), cases.training
    pace = StagePace()

    def report(stage: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        line = f"{stage} {step}/{steps}  {shown}{pace.left(stage, step, steps)}"
        console.print(line, highlight=False, soft_wrap=True)  # one line of a log, however long

    for warning in cohort_warnings(training.originals, config):
        log.warning("%s: %s", options.data, warning)
    half = has_half_weights(config, fabric, options.precision)
    run = StageRun(
        fabric, options.out, options.seed, report, cohort_digest(training), half_weights=half,
        accumulate=options.accumulate, keep_best=options.keep == "best", patience=options.patience,
        compile=options.compile,
    )  # fmt: skip
    trainer = _trainer(config, cases, options, run, _counted(console, "encoded cases"))
    trainer.start()
    for name in options.restart:
        trainer.restart(name)
    began = time.monotonic()
    for stage in stages:
        trainer.train(stage)
    took = f"{(time.monotonic() - began) / 60:.0f} min"
    done = f"{options.out}: {progress(options.out, config)}; trained in {took}"
    console.print(done, highlight=False, markup=False, soft_wrap=True)


class StagePace:
    """How long a stage will take, by what was made of it in this sitting."""

    def __init__(self) -> None:
        self._stage, self._began = "", (0.0, 0)

    def left(self, stage: str, step: int, steps: int) -> str:
        """`  about 12 min left`; nothing at a stage's first and last line."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began = stage, (now, step)
        began, first = self._began
        if step in (first, steps):
            return ""
        return f"  about {(now - began) / (step - first) * (steps - step) / 60:.0f} min left"


def has_half_weights(config: AnySystem, fabric: Fabric, precision: str) -> bool:
    """Whether weights are bfloat16 with float32 masters: mask first, one process on a CPU that computes in bfloat16."""
    alone_on_cpu = fabric.device.type == "cpu" and fabric.world_size == 1
    return isinstance(config, MaskFirstConfig) and alone_on_cpu and precision == MIXED and has_bf16()


def launched(options: TrainOptions) -> Fabric:
    """The devices, ready to train on; on a CPU no more threads than quotas and Slurm leave to this process.

    Raises:
        UsageError: Lightning cannot have them so; its reason, and the option. Or this is one of several processes that
            each would train alone.
    """
    try:
        fabric = Fabric(
            accelerator="auto", devices=options.devices, num_nodes=machines(), precision=options.precision  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        fabric.launch()
        torch.set_num_threads(min(torch.get_num_threads(), available_threads()))
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"--devices {options.devices}, --precision {options.precision}: {error}") from error
    if fabric.world_size == 1 and is_beside_others():
        raise UsageError(
            f"--devices {options.devices}: this process was started as one of several ({', '.join(RANKS)} say so) but "
            "would train alone; start one, or give --devices the number of processes on a machine"
        )
    return fabric


def cohort_warnings(cohort: Cohort, config: AnySystem) -> Iterator[str]:
    """What a cohort lacks for what it is to teach.

    Raises:
        InvalidInputError: its masks hold one tissue only where the preset asks for several.
    """
    if len(cohort) < FEW_CASES:
        yield f"only {counted(len(cohort), 'case')} to train on: below {FEW_CASES} a model hardly generalises"
    if config.classes <= 2:
        return
    shares = cohort.conditions[:, [COLUMNS.index(name) for name in SHARE_COLUMNS]]
    absent = [name for name, column in zip(SHARE_COLUMNS, shares.T, strict=True) if not column.any()]
    if len(absent) == len(SHARE_COLUMNS) - 1 and len(cohort) > 1:
        raise InvalidInputError(
            f"every mask of the cohort holds one tissue only, the preset {config.preset} is to learn "
            f"{', '.join(config.tissues)}; give a preset with tissues: [wt], or masks with all of them"
        )
    for name in absent:
        yield f"no case has tissue {name.removesuffix('_share')}: the model will not know it"
