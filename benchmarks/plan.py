"""What a benchmark is asked to measure, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TypeVar

from ..engine.backends.choose import choose_backend
from ..engine.bundle.fitted import fitted_numbers
from ..engine.bundle.load import Bundle
from ..engine.bundle.manifest import SamplerName
from ..engine.errors import UsageError
from ..engine.run.options import MAX_BATCH, SAMPLERS, most_steps
from ..engine.run.request import require_fields
from ..engine.sampling.types import Backend

MOST_REPEATS = 1000
Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class BenchPlan:
    """The points are every combination of backends, samplers, steps and batch sizes; `fitted` has steps of its own."""

    device: str  # cpu, cuda or cuda:I
    backends: tuple[str, ...]  # NAME or NAME:PRECISION
    steps: tuple[int, ...]
    samplers: tuple[SamplerName, ...]
    batches: tuple[int, ...]
    volumes: int  # of a timed run
    repeats: int
    reference_steps: int
    fitted: tuple[int, ...] = ()  # steps of the sampler `fitted`, where it is among the samplers
    seed: int = 0
    threads: int | None = None  # of the CPU; None: all


@dataclass(frozen=True)
class Point:
    """One combination."""

    backend: str  # as the plan spells it
    sampler: SamplerName
    steps: int
    batch: int

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.backend} {self.sampler} {self.steps} steps batch {self.batch}"


def parse_numbers(option: str, text: str, least: int, most: int) -> tuple[int, ...]:
    """Comma-separated whole numbers; UsageError where there is none, one is none or is out of range."""
    allowed = f"whole numbers from {least} to {most}, separated by commas"
    values = []
    for part in text.split(","):
        word = part.strip()
        if not (word.isascii() and word.isdigit() and least <= int(word) <= most):
            raise UsageError(f"{option} {text!r}: {word or 'nothing'!r} is not allowed; {allowed}")
        values.append(int(word))
    return tuple(dict.fromkeys(values))


def parse_names(option: str, text: str, allowed: Sequence[Name]) -> tuple[Name, ...]:
    """Comma-separated names out of `allowed`; UsageError for others."""
    known = {str(name): name for name in allowed}
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in known:
            raise UsageError(f"{option} {text!r}: {name or 'nothing'!r} is not allowed; {', '.join(allowed)}")
    return tuple(known[name] for name in names)


def make_plan(
    bundle: Bundle,
    *,
    device: str = "cpu",
    backends: str | None,
    steps: str,
    samplers: str | None,
    batches: str,
    volumes: int,
    repeats: int,
    reference_steps: int,
    threads: int | None = None,
) -> BenchPlan:
    """The plan that the options spell.

    Raises:
        UsageError: an option is empty or out of range.
    """
    table = most_steps(bundle.manifest)
    for option, value, most in (
        ("--volumes", volumes, MAX_BATCH),
        ("--repeats", repeats, MOST_REPEATS),
        ("--reference-steps", reference_steps, table),
    ):
        if not 1 <= value <= most:
            raise UsageError(f"{option} {value}: must be from 1 to {most}")
    asked = default_backends(device) if backends is None else backends.split(",")
    names = tuple(dict.fromkeys(name.strip() for name in asked))
    numbers = fitted_numbers(bundle.manifest.schedule.fitted)
    chosen = usual_samplers(numbers) if samplers is None else parse_names("--samplers", samplers, SAMPLERS)
    if "fitted" in chosen and not numbers:
        raise UsageError(f"--samplers {samplers}: this bundle has no fitted steps; give others")
    if not all(names):
        raise UsageError(f"--backends {backends!r}: names such as onnxruntime, openvino:bf16, separated by commas")
    return BenchPlan(
        device,
        names,
        parse_numbers("--steps", steps, 1, table),
        chosen,
        parse_numbers("--batch", batches, 1, MAX_BATCH),
        volumes,
        repeats,
        reference_steps,
        numbers if "fitted" in chosen else (),
        threads=threads,
    )


def usual_samplers(fitted: Sequence[int]) -> tuple[SamplerName, ...]:
    """All that a bundle has, whose fitted steps have these numbers."""
    return tuple(sampler for sampler in SAMPLERS if fitted or sampler != "fitted")


def default_backends(device: str) -> tuple[str, ...]:
    """ONNX Runtime, and what else is installed: OpenVINO on a CPU, TensorRT on a GPU."""
    if device == "cpu":
        return ("onnxruntime", *(("openvino",) if find_spec("openvino") else ()))
    return ("onnxruntime", *(("tensorrt",) if find_spec("tensorrt") or find_spec("tensorrt_rtx") else ()))


def open_backends(bundle: Bundle, plan: BenchPlan) -> dict[str, Backend]:
    """The plan's backends by the name that it spells.

    Raises:
        BackendUnavailableError: one is not installed or cannot run here.
        UsageError: there is none of that name or precision, or that many threads.
    """
    require_fields(threads=plan.threads)
    opened: dict[str, Backend] = {}
    for spelled in plan.backends:
        name, _, precision = spelled.partition(":")
        device = "auto" if (name, plan.device) == ("tensorrt", "cpu") else plan.device
        opened[spelled] = choose_backend(bundle, name, device, precision or "auto", plan.threads, plan.batches[0])
    return opened


def points_of(plan: BenchPlan, backends: Sequence[str]) -> tuple[Point, ...]:
    """Every combination for the backends that passed."""
    ways = [(steps, sampler) for steps in plan.steps for sampler in plan.samplers if sampler != "fitted"]
    fitted: list[tuple[int, SamplerName]] = [(steps, "fitted") for steps in plan.fitted]
    return tuple(
        Point(backend, sampler, steps, batch)
        for batch in plan.batches
        for steps, sampler in [*ways, *fitted]
        for backend in backends
    )
