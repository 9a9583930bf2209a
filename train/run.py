"""A training run from the command line: plan, prepare the cohort, train the stages with progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning.fabric import Fabric
from rich.console import Console

from ..engine.conditions.columns import ConditionColumn
from ..engine.errors import InvalidInputError, UsageError
from ..engine.scans.options import ReadOptions
from .checkpoint import read_json
from .config import SystemConfig
from .data.cohort import Cohort, prepare_cohort
from .footprint import network_costs, stage_memory
from .latents import condition_names
from .stage import StageRun
from .system import SystemTrainer, cohort_digest, planned_stages, system_latent_shape


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


def with_steps(config: SystemConfig, overrides: Sequence[str]) -> SystemConfig:
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


def plan(config: SystemConfig, stage: str) -> str:
    """The networks with their cost and the stages to run with their memory, as text; no data is touched."""
    columns = [ConditionColumn(name, False, 0.0, 1.0) for name in condition_names(config)]
    lines = [f"preset {config.preset}: grid {config.grid.shape}, Z {system_latent_shape(config)}"]
    for network in network_costs(config, columns):
        figures = f"{network.parameters / 1e6:8.2f} M parameters {network.gmac:9.2f} GMAC a {network.unit}"
        lines.append(f"  {network.name:<12} {figures}")
    for name in planned_stages(config, stage):
        s, memory = config.stages[name], stage_memory(config, name, columns)
        lines.append(f"stage {name}: {s.steps} steps of {s.batch_size}, learning rate {s.learning_rate:g}")
        if memory.weights:
            lines.append(
                f"  about {memory.total / 2**30:.2f} GiB in float32: weights, gradients, Adam, moving average "
                f"{memory.weights / 2**30:.2f}, activations of a batch {memory.activations / 2**30:.2f}"
            )
    return "\n".join(lines)


def progress(directory: Path, config: SystemConfig) -> str:
    """The steps that each stage of a training directory has saved, as text."""
    found = []
    for stage, settings in config.stages.items():
        path = directory / stage / "state.json"
        if path.is_file():
            found.append(f"{stage} {read_json(path)['step']}/{settings.steps}")
    return ", ".join(found) or "nothing yet"


def _require_tissues(config: SystemConfig, cohort: Cohort, data: Path) -> None:
    if config.classes > 2 and np.isnan(cohort.conditions).any():
        raise InvalidInputError(
            f"{data}: its masks tell one tumour label, the preset {config.preset} learns {', '.join(config.tissues)}; "
            "take a preset with tissues: [tumour], or say what the numbers mean: --labels "
            '"necrosis=1,oedema=2,enhancing=3"'
        )


def run_training(config: SystemConfig, options: TrainOptions) -> None:
    """Prepare the cohort and train the planned stages.

    Raises:
        InvalidInputError: faults of the cohort, or a directory of another configuration.
    """
    stages = planned_stages(config, options.stage)
    console = Console(stderr=True)
    cohort = prepare_cohort(
        options.data, options.cache, config.grid,
        modalities=config.modalities, workers=options.workers, skip_invalid=options.skip_invalid, options=options.read,
    )  # fmt: skip
    _require_tissues(config, cohort, options.data)
    kept = len(cohort) - options.held_out
    if kept < 1:
        raise InvalidInputError(
            f"{options.data}: {len(cohort)} cases leave none to train on after --held-out {options.held_out}"
        )
    fabric = Fabric(accelerator="auto", devices=options.devices, precision=options.precision)  # pyright: ignore[reportArgumentType]
    fabric.launch()

    def report(stage: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        console.print(f"{stage} {step}/{steps}  {shown}", highlight=False)

    def encoding(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            console.print(f"encoded {done}/{total} cases", highlight=False)

    training = cohort.subset(range(kept))
    run = StageRun(fabric, options.out, options.seed, report, cohort_digest(training))
    trainer = SystemTrainer(config, training, run, encoding)
    trainer.start()
    for stage in stages:
        trainer.train(stage)
