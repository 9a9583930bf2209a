"""The papers' systems beside ours: trained for equal processor times on one procedural cohort, judged by one table.

python -m sbldm.benchmarks.published_forms --work FOLDER [--minutes 60] [--systems isbi2024,cmig2025,phantom,glioma]
                                           [--cases 200] [--tests 24] [--samples 24] [--workers 2]

Makes the phantoms, then of each system: a preset at reduced width (`reduced`), steps that take `--minutes` of
training on this machine in all (measured first), `train`, `export`, `generate`, `evaluate`. Minutes are those of a
core, so that other work on the machine changes no budget; with a GPU those of the clock. What is finished in FOLDER
is not made again, so that a stopped benchmark goes on. FOLDER/systems.md has the table, which is also printed, and
FOLDER/systems.json its figures. An export that the gate refuses is made with --force, and the table says why. So it
does of samples that cannot be evaluated; of a system without any other, only the reconstruction is.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..engine.bundle.manifest import DEFAULT_GRID
from ..engine.conditions.columns import ConditionColumn
from ..engine.errors import InvalidInputError, SbldmError
from ..engine.files import write_atomic
from ..engine.processor import available_threads, cpu_name
from ..train.config import (
    AnySystem,
    MaskFirstConfig,
    SystemConfig,
    check_config,
    config_to_json,
    load_preset,
)
from ..train.evaluation.report import interval, show
from ..train.footprint import network_costs
from ..train.latents import condition_names
from ..train.precision import AUTO, training_precision
from ..train.system import planned_stages
from .training_speed import step_seconds

SYSTEMS = "isbi2024,cmig2025,phantom,glioma"
LEDGER = "ledger.jsonl"  # of a run
COHORT_SEED = 14
SHARES = {"autoencoder": 5, "aggregator": 1, "mask": 1, "denoiser": 5, "refiner": 1, "distill": 1}  # of the time
TIMED_STEPS = 3
TIME = "the clock" if torch.cuda.is_available() else "a core"
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time
OPTIMISER: dict[str, Any] = {"learning_rate": 1e-3, "warmup_steps": 50, "ema_decay": 0.99}
"""Of all systems alike: the papers' own are meant for a hundred times as many steps."""


def reduced(preset: str) -> AnySystem:
    """A preset at the width that this comparison has: the papers' a quarter, ours half, on the default grid."""
    config = load_preset(preset)
    stages = {name: dataclasses.replace(stage, **OPTIMISER) for name, stage in config.stages.items()}
    if isinstance(config, MaskFirstConfig):
        made: AnySystem = dataclasses.replace(
            config,
            autoencoder=dataclasses.replace(config.autoencoder, widths=(48, 80, 128), fine_width=16),
            mask_denoiser=dataclasses.replace(config.mask_denoiser, widths=(32, 64), embedding=128),
            denoiser=dataclasses.replace(config.denoiser, widths=(48, 96), embedding=192),
            stages=stages,
        )
        return check_config(made, preset)
    return check_config(_narrow(dataclasses.replace(config, grid=DEFAULT_GRID, stages=stages)), preset)


def _narrow(config: SystemConfig) -> SystemConfig:
    part = 4 if config.vae.form == "published" else 2

    def fewer(widths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(width // part for width in widths)

    return dataclasses.replace(
        config,
        vae=dataclasses.replace(
            config.vae, widths=fewer(config.vae.widths), groups=8, position_width=config.vae.position_width // part,
            fine_width=max(16, config.vae.fine_width // part),
        ),
        aggregator=dataclasses.replace(config.aggregator, widths=fewer(config.aggregator.widths)),
        denoiser=dataclasses.replace(
            config.denoiser, widths=fewer(config.denoiser.widths), groups=8,
            time_width=config.denoiser.time_width // part, condition_width=config.denoiser.condition_width // part,
        ),
        refiner=config.refiner and dataclasses.replace(config.refiner, width=config.refiner.width // 2),
    )  # fmt: skip


def budget(config: AnySystem, minutes: float) -> AnySystem:
    """The configuration with the steps that fill `minutes` of a core or a GPU, each stage by its share."""
    trained = [
        stage
        for stage in planned_stages(config, "all")
        if not (isinstance(config, SystemConfig) and stage == "aggregator" and config.aggregator.kind == "stack")
    ]
    with tempfile.TemporaryDirectory(prefix="sbldm-forms-") as folder:
        seconds = step_seconds(config, Path(folder), TIMED_STEPS, training_precision(AUTO), clock=CLOCK)
    total = sum(SHARES[stage] for stage in trained)
    steps = {stage: max(2, round(60 * minutes * SHARES[stage] / total / seconds[stage])) for stage in trained}
    stages = {}
    for name, stage in config.stages.items():
        length = steps.get(name, 1)
        stages[name] = dataclasses.replace(stage, steps=length, warmup_steps=min(stage.warmup_steps, length))
    return dataclasses.replace(config, stages=stages)


@dataclasses.dataclass(frozen=True)
class Made:
    """How long something took, and what is told of it."""

    seconds: float  # of processor time of all processes; with a GPU of the clock
    told: str | None


@dataclasses.dataclass(frozen=True)
class Samples:
    """How many of the samples that were asked for can be evaluated, and why the others cannot."""

    asked: int
    sound: int
    faults: Sequence[str]  # the first of those that were made, and of those that were not

    def told(self) -> str | None:
        """A line; None where all are sound."""
        return f"{self.sound} of {self.asked} samples are sound: {'; '.join(self.faults)}" if self.faults else None


@dataclasses.dataclass(frozen=True)
class System:
    """What became of one system."""

    name: str
    steps: dict[str, int]
    parameters: int
    gmac: float  # of a call of the denoiser
    training_s: float  # as `Made.seconds`
    fault: str | None  # of the gate
    generation_s: float  # of a volume, likewise
    samples: Samples
    evaluation: dict[str, Any]

    def notes(self) -> list[str]:
        """What the table cannot hold: why the gate refused, why samples were left out."""
        gate = self.fault and self.fault.split("\n", 1)[0].removeprefix("error: ")  # without what to do
        return [f"{self.name}: {told}" for told in (gate, self.samples.told()) if told is not None]


def spent() -> float:
    """Seconds of processor time of the commands that ended so far; with a GPU of the clock."""
    if torch.cuda.is_available():
        return time.perf_counter()
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


class Bench:
    """The folder of the comparison, and how its commands are run."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.work = given, given.work
        self.train, self.test = self.work / "train", self.work / "test"
        self.work.mkdir(parents=True, exist_ok=True)

    def run(self, *command: str, allowed: Sequence[int] = (0,), **options: Any) -> subprocess.CompletedProcess[str]:
        """A command of this program, True a flag among its options; what it took stands in FOLDER/commands.log.

        Raises:
            InvalidInputError: its exit code is none that is allowed.
        """
        words = [*command]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
        line = shlex.join(["sbldm-engine", *words])
        print(line, file=sys.stderr, flush=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "sbldm", *words], text=True, capture_output=True, check=False)
        with (self.work / "commands.log").open("a", encoding="utf-8") as log:
            log.write(f"{time.monotonic() - began:.0f} s, exit {done.returncode}: {line}\n")
        if done.returncode not in allowed:
            raise InvalidInputError(f"{line}: exit {done.returncode}\n{done.stderr[-2000:]}")
        return done

    def once(self, name: str, make: Callable[[], str | None]) -> Made:
        """What `make` gave and took, from FOLDER/name.json where it was made before."""
        path = self.work / f"{name}.json"
        if not path.is_file():
            began = spent()
            told = make()
            write_atomic(path, json.dumps(dataclasses.asdict(Made(spent() - began, told))).encode())
        return Made(**json.loads(path.read_text("utf-8")))

    def cohorts(self) -> None:
        """Phantoms to train on, and others on anatomies that are held out."""
        self.once("train", lambda: self._phantoms(self.train, count=self.given.cases, seed=COHORT_SEED))
        self.once(
            "test", lambda: self._phantoms(self.test, count=self.given.tests, seed=COHORT_SEED + 1, held_out=True)
        )

    def _phantoms(self, folder: Path, **options: Any) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # what an interrupted command left
        self.run("phantom", out=folder, workers=self.given.workers, **options)

    def system(self, name: str) -> System:
        """Train, export, generate, evaluate."""
        folder = self.work / name
        folder.mkdir(exist_ok=True)
        preset = folder / "preset.yaml"
        if not preset.is_file():
            planned = budget(reduced(name), self.given.minutes)
            write_atomic(preset, json.dumps(config_to_json(planned), indent=1).encode())
        config = load_preset(str(preset))
        trained = self.once(f"{name}-train", lambda: self._trained(folder))
        exported = self.once(f"{name}-export", lambda: self._exported(folder, config))
        generated = self.once(f"{name}-generate", lambda: self._generated(folder))
        self.once(f"{name}-check", lambda: self._checked(folder))
        samples = self._samples(folder)
        self.once(f"{name}-evaluate", lambda: self._evaluated(folder, samples))
        columns = [ConditionColumn(column, False, 0.0, 1.0) for column in condition_names(config)]
        costs = network_costs(config, columns)
        return System(
            name,
            steps={stage: config.stages[stage].steps for stage in planned_stages(config, "all")},
            parameters=sum(cost.parameters for cost in costs),
            gmac=next(cost.gmac for cost in costs if cost.name == "denoiser"),
            training_s=trained.seconds,
            fault=exported.told,
            generation_s=generated.seconds / self.given.samples,
            samples=samples,
            evaluation=json.loads((folder / "evaluation" / "evaluation.json").read_text("utf-8")),
        )

    def _trained(self, folder: Path) -> None:
        out = folder / "training"
        self.run(
            "train", preset=folder / "preset.yaml", data=self.train, out=out, seed=1, workers=self.given.workers
        )  # fmt: skip

    def _exported(self, folder: Path, config: AnySystem) -> str | None:
        """What the gate said, where it refused."""
        options: dict[str, Any] = {"checkpoint": folder / "training", "out": folder / "bundle", "store": "fp16"}
        if isinstance(config, MaskFirstConfig):
            options["source"] = "phantom"
        done = self.run("export", allowed=(0, 3), **options)
        if done.returncode == 0:
            return None
        self.run("export", force=True, **options)
        return done.stderr[done.stderr.find("error:") :].strip()

    def _generated(self, folder: Path) -> None:
        self.run(
            "generate", allowed=(0, 5), bundle=folder / "bundle", count=self.given.samples, seed=1,
            out=folder / "samples", resume=True,
        )  # fmt: skip

    def _checked(self, folder: Path) -> None:
        """Each sample read as `evaluate` reads it."""
        done = self.run(
            "data", "check", str(folder / "samples"), allowed=(0, 3), bundle=folder / "bundle", json=True
        )  # fmt: skip
        write_atomic(folder / "check.json", done.stdout.encode())

    def _samples(self, folder: Path) -> Samples:
        checked = (folder / "check.json").read_text("utf-8")  # empty where `generate` made none
        cases = json.loads(checked)["cases"] if checked else []
        faults = [case["faults"][0] for case in cases if not case["ok"]]
        ledger = map(json.loads, (folder / "samples" / LEDGER).read_text("utf-8").splitlines())
        failed = [f"{line['id']}: {line['fault']}" for line in ledger if line["fault"] is not None]
        return Samples(self.given.samples, len(cases) - len(faults), [*faults[:1], *failed[:1]])

    def _evaluated(self, folder: Path, samples: Samples) -> None:
        sides = {"synthetic": folder / "samples", "train": self.train} if samples.sound else {}
        self.run(
            "evaluate", real=self.test, **sides, bundle=folder / "bundle", reconstruct=True,
            out=folder / "evaluation", cache=folder / "training" / "cache", workers=self.given.workers,
        )  # fmt: skip


def table(systems: Sequence[System]) -> str:
    """Markdown: a column a system."""
    rows: list[tuple[str, Callable[[System], str]]] = [
        ("steps", lambda s: ", ".join(f"{stage} {steps}" for stage, steps in s.steps.items())),
        ("parameters, M; GMAC a denoiser call", lambda s: f"{s.parameters / 1e6:.2f}; {s.gmac:.2f}"),
        (f"training, min of {TIME}", lambda s: f"{s.training_s / 60:.0f}"),
        ("gate of the export", lambda s: "passed" if s.fault is None else "refused (forced)"),
        (f"s of {TIME} a volume", lambda s: f"{s.generation_s:.1f}"),
        ("sound samples", lambda s: f"{s.samples.sound} of {s.samples.asked}"),
        ("Dice WT image against mask", lambda s: _at(s, "agreement", "wt", "synthetic")),
        ("... unseen phantoms", lambda s: _at(s, "agreement", "wt", "real")),
        ("... swapped masks", lambda s: _at(s, "agreement", "wt", "swapped")),
        ("kernel MMD (floor)", lambda s: _floored(s, "mmd")),
        ("precision (floor)", lambda s: _floored(s, "precision")),
        ("coverage (floor)", lambda s: _floored(s, "coverage")),
        ("fine structure, FLAIR, over phantoms'", lambda s: _at(s, "texture", "fine_structure", "flair", "ratio")),
        ("slice-to-slice over in-plane difference", lambda s: _at(s, "coherence", "relative_to_in_plane")),
        ("MS-SSIM of pairs", lambda s: _number(s, "ms_ssim", "synthetic", "mean")),
        ("volume: r; median relative error", lambda s: _adhered(s, "volume_ml", "median_relative_error")),
        ("x: r; median error, share of the field", lambda s: _adhered(s, "x", "median_error")),
        ("sphericity: r; median error", lambda s: _adhered(s, "sphericity", "median_error")),
        ("PSNR of reconstructed brains, dB", lambda s: _reconstructed(s)),
    ]
    head = ["| |" + "".join(f" {s.name} |" for s in systems), "| --- |" + " --- |" * len(systems)]
    return "\n".join(head + [f"| {title} |" + "".join(f" {told(s)} |" for s in systems) for title, told in rows]) + "\n"


def _found(system: System, *path: str) -> Any:
    value: Any = system.evaluation
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _at(system: System, *path: str) -> str:
    return interval(_found(system, *path))


def _number(system: System, *path: str) -> str:
    return show(_found(system, *path))


def _floored(system: System, name: str) -> str:
    sides = [_found(system, "distribution", "segmenter", name, side, "value") for side in ("synthetic", "floor")]
    return f"{show(sides[0])} ({show(sides[1])})"


def _adhered(system: System, column: str, error: str) -> str:
    return f"{_at(system, 'adherence_errors', column, 'r')}; {_number(system, 'adherence', column, error)}"


def _reconstructed(system: System) -> str:
    sides = [_found(system, "reconstruction", side, "psnr_brain") for side in ("coarse", "refined")]
    return interval(sides[0] if sides[1] is None else sides[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, a system")
    parser.add_argument("--systems", default=SYSTEMS)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--tests", type=int, default=24)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    try:
        bench = Bench(given)
        bench.cohorts()
        systems = [bench.system(name) for name in given.systems.split(",")]
    except SbldmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    machine = f"{available_threads()} threads of {cpu_name()}"
    notes = [f"- {note}" for system in systems for note in system.notes()]
    told_below = (f"{given.minutes:g} min of {TIME} for the training of each, {machine}", *notes)
    text = table(systems) + "".join(f"\n{line}\n" for line in told_below)
    write_atomic(given.work / "systems.md", text.encode())
    told = {"minutes": given.minutes, "machine": machine, "systems": [dataclasses.asdict(s) for s in systems]}
    write_atomic(given.work / "systems.json", json.dumps(told, indent=1).encode())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
