"""Throughput and quality of a bundle on this machine.

A parity gate first; then single components; then whole runs to disk at every combination of backend, sampler, steps and
batch size, with the quality of their volumes beside many more steps of the same seeds. What is compared is run by
turns, medians count, and what was measured while other processes took the processor is marked.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..engine.backends.onnxruntime import OnnxRuntimeBackend
from ..engine.bundle.load import Bundle
from ..engine.errors import InvalidInputError
from ..engine.processor import available_threads
from ..engine.run.open_loop import device_loops
from ..engine.sampling.types import Backend, Volume
from ..engine.versions import installed
from .component_calls import Arrays, Calls, Gate, calls_of, check
from .device_calls import device_call, device_inputs
from .end_to_end import EndToEnd
from .energy import EnergyMeter, open_meter
from .machine import Machine, describe_machine
from .plan import BenchPlan, Point, points_of
from .process import run_measured
from .quality import Quality, compare
from .timing import Energy, Run, Timing, by_turns, energy, interleaved, summarise, timed
from .work import count_macs

PACKAGES = ("sbldm-engine", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")
Progress = Callable[[str], None]


@dataclass(frozen=True)
class ComponentFigure:
    """One component of one backend, or work of the host between components. A call: as a batch of volumes has it."""

    backend: str
    component: str
    timing: Timing
    gmac: float | None  # of a call
    fma_share: float | None  # of the machine's float32 multiply-add peak
    a_volume: float  # calls, at the bundle's own steps
    clock: Literal["host", "device"] = "host"  # device: CUDA events, copies to and from the GPU left out


@dataclass(frozen=True)
class PointFigure:
    """One combination, end to end to disk."""

    point: Point
    precision: str
    timing: Timing  # a volume
    volumes_a_second: float
    stage_seconds: dict[str, float]  # a volume, in the last run; stages overlap
    megabytes: float  # a volume on disk
    quality: Quality
    energy: dict[str, Energy]  # a volume; by cpu and gpu, where it is measurable


@dataclass(frozen=True)
class ProcessFigure:
    """`generate --count 1` in a process of its own: everything from start-up to the manifest."""

    backend: str
    seconds: float
    peak_mib: float
    other_cores: float


@dataclass
class BenchResult:
    """What was measured; `complete` stays False where the benchmark was interrupted."""

    date: str
    system: str
    versions: dict[str, str]
    bundle: dict[str, str]
    plan: BenchPlan
    complete: bool = False
    machine: Machine | None = None
    energy: dict[str, str] = field(default_factory=dict)  # by cpu and gpu: how it is measured, or why it is not
    gates: list[Gate] = field(default_factory=list)
    components: list[ComponentFigure] = field(default_factory=list)
    points: list[PointFigure] = field(default_factory=list)
    processes: list[ProcessFigure] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def start(bundle: Bundle, plan: BenchPlan) -> BenchResult:
    """An empty result with its circumstances."""
    manifest = bundle.manifest
    identity = {"id": manifest.id, "sha256": bundle.sha256, "preset": manifest.preset, "precision": manifest.precision}
    versions = {"python": platform.python_version()} | {n: v for n in PACKAGES if (v := installed(n)) is not None}
    return BenchResult(time.strftime("%Y-%m-%d"), platform.platform(), versions, identity, plan)


def measure(bundle: Bundle, backends: dict[str, Backend], result: BenchResult, say: Progress) -> None:
    """Fill `result`; KeyboardInterrupt leaves what was measured so far in it, marked incomplete.

    Raises:
        InvalidInputError: no backend passes the parity gate.
    """
    say("machine: multiply-add peak")
    plan = result.plan
    device = next((backend.device for backend in backends.values() if backend.device != "cpu"), "cpu")
    result.machine, meter = describe_machine(device), open_meter(device)
    result.energy = meter.how
    reference = _reference(bundle, backends)
    calls = calls_of(bundle, reference, plan.batches[0])
    say(f"parity gate, against {reference.name}")
    result.gates = [check(bundle, backend, reference, calls.inputs) for backend in backends.values()]
    passed = {name: backends[name] for name, gate in zip(backends, result.gates, strict=True) if gate.passed}
    if not passed:
        raise InvalidInputError("no backend is timed:\n" + "\n".join(f"{g.backend}: {g.reason}" for g in result.gates))
    say("components")
    _measure_components(bundle, passed, calls, result)
    with tempfile.TemporaryDirectory(prefix="sbldm-bench-") as folder:
        _measure_points(bundle, passed, reference, result, meter, Path(folder), say)
        for spelled, backend in passed.items():
            say(f"a process of its own: {spelled}")
            result.processes.append(_measure_process(bundle, spelled, backend, plan, Path(folder)))
    result.complete = True


def _reference(bundle: Bundle, backends: dict[str, Backend]) -> Backend:
    """ONNX Runtime on the CPU where it is among them, or for GPUs; else the first."""
    on_cpu = [backend for backend in backends.values() if backend.device == "cpu"]
    if not on_cpu:
        return OnnxRuntimeBackend(bundle, "cpu", available_threads())
    return next((backend for backend in on_cpu if backend.name == "onnxruntime"), on_cpu[0])


def _measure_components(bundle: Bundle, backends: dict[str, Backend], calls: Calls, result: BenchResult) -> None:
    assert result.machine is not None
    peak, repeats = result.machine.fma_peak.gflops, result.plan.repeats
    on_device = {name for name, backend in backends.items() if device_loops(backend) is not None}
    for component, recorded in calls.inputs.items():
        inputs = device_inputs(bundle, component, recorded, result.plan.batches[0]) if on_device else recorded
        macs = count_macs(bundle.component_path(component), inputs)
        takes = {name: _take(bundle, backend, component, inputs) for name, backend in backends.items()}
        for name, timing in by_turns(takes, repeats).items():
            on_cpu = backends[name].device == "cpu"
            share = 2e-9 * macs / timing.seconds / peak if on_cpu and macs is not None and peak else None
            gmac = None if macs is None else macs / 1e9
            clock = "device" if name in on_device else "host"
            figure = ComponentFigure(name, component, timing, gmac, share, calls.a_volume[component], clock)
            result.components.append(figure)
    for work, timing in interleaved(calls.host_work, repeats).items():
        result.components.append(ComponentFigure("numpy", work, timing, None, None, 1 / result.plan.batches[0]))


def _take(bundle: Bundle, backend: Backend, component: str, inputs: Arrays) -> Callable[[], Run]:
    """Times a component's run: on the device's clock where the backend has its networks there."""
    loops = device_loops(backend)
    if loops is None:
        return partial(timed, partial(backend.run, component, inputs))
    return device_call(bundle, loops, component, inputs)


def _measure_points(
    bundle: Bundle,
    backends: dict[str, Backend],
    reference: Backend,
    result: BenchResult,
    meter: EnergyMeter,
    scratch: Path,
    say: Progress,
) -> None:
    plan = result.plan
    say(f"reference: {plan.reference_steps} ddim steps of {plan.volumes} volumes on {reference.name}")
    ideal_point = Point(reference.name, "ddim", plan.reference_steps, plan.batches[0])
    ideal_run = EndToEnd(bundle, ideal_point, reference, plan.volumes, plan.seed, scratch / "reference")
    ideal = ideal_run.first_run()
    points = points_of(plan, tuple(backends))
    runs: dict[Point, EndToEnd] = {}
    quality: dict[Point, Quality] = {}
    taken: dict[Point, list[Run]] = {}
    try:
        for number, point in enumerate(points):
            say(f"warm-up and quality {number + 1}/{len(points)}: {point.name}")
            backend = backends[point.backend]
            runs[point] = EndToEnd(bundle, point, backend, plan.volumes, plan.seed, scratch / str(number))
            quality[point] = _quality(bundle, runs[point], ideal)
        for repeat in range(plan.repeats):
            for point in points:
                say(f"timed run {repeat + 1}/{plan.repeats}: {point.name}")
                taken.setdefault(point, []).append(timed(runs[point].run, meter))
                runs[point].clear()
    finally:
        for point, timings in taken.items():
            precision = backends[point.backend].precision
            result.points.append(_point_figure(point, precision, timings, runs[point], quality[point], plan.volumes))


def _quality(bundle: Bundle, run: EndToEnd, ideal: list[Volume]) -> Quality:
    return compare(run.first_run(), ideal, run.requested, bundle.manifest)


def _point_figure(
    point: Point, precision: str, runs: list[Run], made: EndToEnd, quality: Quality, volumes: int
) -> PointFigure:
    timing = summarise(runs, 1 / volumes)
    stages = {stage: seconds / volumes for stage, seconds in made.stage_seconds.items()}
    megabytes, joules = made.bytes_a_volume / 1e6, energy(runs, 1 / volumes)
    return PointFigure(point, precision, timing, 1 / timing.seconds, stages, megabytes, quality, joules)


def _measure_process(bundle: Bundle, spelled: str, backend: Backend, plan: BenchPlan, scratch: Path) -> ProcessFigure:
    out = scratch / f"process-{spelled.replace(':', '-')}"
    run = run_measured([
        "generate", "--count", "1", "--bundle", str(bundle.path), "--out", str(out), "--backend", backend.name,
        "--precision", backend.precision, "--steps", str(plan.steps[0]), "--threads", str(backend.threads), "--quiet",
        "--device", backend.device,
    ])  # fmt: skip
    if run.exit_code:
        raise InvalidInputError(
            f"generate with {spelled} ended with exit code {run.exit_code}: {run.errors.strip()[-500:]}"
        )
    return ProcessFigure(spelled, run.seconds, run.peak_bytes / 2**20, run.other_cores)
