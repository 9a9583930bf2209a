"""The items of `gpu_check`: each returns its figures, raises `Skip` with the reason, or fails with an exception."""

from __future__ import annotations

import atexit
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.backends.choose import choose_backend
from ..engine.backends.onnxruntime import OnnxRuntimeBackend
from ..engine.bundle.load import Bundle, load_bundle
from ..engine.cuda.batch_loop import CudaLoop
from ..engine.cuda.capture_trial import capture_refusal
from ..engine.cuda.gpu import CudaDevice
from ..engine.cuda.loop import LoopBatch, LoopShape, SamplingLoop
from ..engine.cuda.loops import OnDevice
from ..engine.cuda.networks import OnnxRuntimeNetworks, open_generator
from ..engine.errors import BackendUnavailableError
from ..engine.processor import available_threads
from ..engine.sampling.host import HostLoop
from ..engine.sampling.model import model_of
from ..engine.sampling.plan import SamplingPlan, sampling_plan
from ..engine.sampling.small_components import drop_outside_brain, drop_small_components
from ..engine.sampling.types import SampleRequest, SamplingOptions, Volume
from ..kernels import compile as kernel_compile
from .gpu_timing import (
    bandwidth_of_assemble,
    bandwidth_of_copy,
    bandwidth_of_ddim_step,
    milliseconds,
    torch_call_ms,
    wall_milliseconds,
)
from .kernel_checks import all_checks

BATCHES = (1, 8, 32)
"""Batch sizes that the loop is timed at."""

BANDWIDTH_TARGET = 0.8
"""Share of a device copy's bandwidth that `ddim_step` and `assemble` should reach."""

LATENT_RMS_LIMIT = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}
"""Largest accepted RMS between the latents of graph loop and CPU engine, a precision of the bundle."""


class Skip(Exception):
    """An item cannot run here; the message is the reason."""


@dataclass(frozen=True)
class Options:
    """What the command line gives an item."""

    gpu: int
    bundle: str | None
    count: int  # volumes that go to disk


def compile_all(options: Options) -> dict[str, Any]:
    """Every kernel for every architecture; needs a compiler, not a GPU."""
    compilers = kernel_compile.available_compilers()
    if not compilers:
        raise Skip("neither NVRTC nor nvcc is here")
    for source in kernel_compile.SOURCES:
        for architecture in kernel_compile.ARCHITECTURES:
            log = kernel_compile.compile_cubin(kernel_compile.source_path(source), architecture).log
            assert " bytes spill stores" in log, f"{source}: the compiler gave no register report"
            spilled = re.findall(r"[1-9]\d* bytes spill \w+", log)
            assert not spilled, f"{source}.cu spills registers on sm_{architecture}: {spilled}"
    return {"compiler": compilers[0], "cubins": len(kernel_compile.SOURCES) * len(kernel_compile.ARCHITECTURES)}


def kernels_against_references(options: Options) -> dict[str, Any]:
    """Every kernel against NumPy at every size."""
    device = _gpu(options)
    failures = []
    checks = list(all_checks())
    for check in checks:
        try:
            check.run(device)
        except AssertionError as error:
            failures.append(f"{check.name}: {str(error).strip().splitlines()[0]}")
    assert not failures, "; ".join(failures)
    return {"checks": len(checks), "gpu": device.name}


def sanitizer(options: Options, tool: str) -> dict[str, Any]:
    """The kernel checks under compute-sanitizer."""
    _gpu(options)
    if shutil.which("compute-sanitizer") is None:
        raise Skip("compute-sanitizer is not on PATH (it comes with the CUDA toolkit)")
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "sbldm.benchmarks"]
    command[-1] += ".gpu_check"
    command += ["--item", "kernels", "--gpu", str(options.gpu)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{tool}: {(done.stdout + done.stderr)[-2000:]}"
    return {"tool": tool}


def bandwidth(options: Options) -> dict[str, Any]:
    """GB/s of the two kernels that move the data, and their share of a device copy."""
    device = _gpu(options)
    copy = bandwidth_of_copy(device)
    figures: dict[str, Any] = {"copy_gb_s": round(copy, 1)}
    kernels = {"ddim_step": bandwidth_of_ddim_step(device), "assemble": bandwidth_of_assemble(device)}
    for name, rate in kernels.items():
        figures |= {f"{name}_gb_s": round(rate, 1), f"{name}_share": round(rate / copy, 3)}
    figures["target_met"] = all(rate >= BANDWIDTH_TARGET * copy for rate in kernels.values())
    return figures


def capture(options: Options) -> dict[str, Any]:
    """Whether ONNX Runtime's sessions let themselves be captured, by the code that `generate` runs."""
    _gpu(options)
    loop = _product(options, "onnxruntime", 2)
    return {"loop": loop.kind, "reason": loop.reason}


def against_cpu_engine(options: Options) -> dict[str, Any]:
    """Loop on the GPU against the CPU engine on the same samples: latents, images, labels; graph against launches."""
    device, bundle = _gpu(options), _bundle(options)
    settings, batch = _settings(bundle, 2), _batch(bundle, 2)
    streams, parts = _components(device, bundle, options.gpu)
    plan, shape = sampling_plan(bundle.manifest.schedule, settings), _shape(bundle, settings)
    latents, volumes = [], []
    ways, figures = _ways(bundle, options)
    for use_graphs in ways.values():
        generator = open_generator(bundle, 2, shape.guided, device, parts, streams, use_graphs)
        volumes.append(generator.collect(generator.start(batch, plan)))
        loop = SamplingLoop(device, parts["denoiser"], shape, use_graphs)
        latents.append(_latents(device, loop, batch, plan, streams[0]))
    assert len({values.tobytes() for values in latents}) == 1, "graph and plain launches give other latents"
    assert len({made.images.tobytes() for made in volumes}) == 1, "graph and plain launches give other images"
    engine = _host_loop(bundle, settings)
    same = engine.batch(_requests(batch))
    told = engine.model.tell(engine.run, same, None)
    reference = engine.denoise(same, told, same.noise(engine.model.latent_shape, 0), plan)
    rms, limit = float(np.sqrt(np.mean((latents[0] - reference) ** 2))), LATENT_RMS_LIMIT[bundle.manifest.precision]
    figures |= {"latent_rms": rms}
    labels = np.stack([drop_small_components(label) for label in volumes[0].labels])
    images = np.stack([drop_outside_brain(*made) for made in zip(volumes[0].images, labels, strict=True)])
    figures |= _compared(images, labels, engine.model.decode(engine.run, same, told, reference))
    assert rms <= limit, f"latent RMS {rms:.2e} is above {limit}: {figures}"
    return figures


def loop_time(options: Options) -> dict[str, Any]:
    """Milliseconds of the sampling loop, as a graph and as ONNX Runtime CUDA without the graph."""
    device, bundle = _gpu(options), _bundle(options)
    streams, parts = _components(device, bundle, options.gpu)
    ways, figures = _ways(bundle, options)
    figures["steps"] = bundle.manifest.defaults.steps
    for size in BATCHES:
        settings, batch = _settings(bundle, size), _batch(bundle, size)
        plan = sampling_plan(bundle.manifest.schedule, settings)
        for name, use_graphs in ways.items():
            loop = SamplingLoop(device, parts["denoiser"], _shape(bundle, settings), use_graphs)
            work = partial(loop.sample, batch, plan, streams[0])
            figures[f"{name}_batch_{size}_ms"] = round(milliseconds(device, streams[0], work), 3)
    return figures


def torch_time(options: Options, compiled: bool) -> dict[str, Any]:
    """Milliseconds of the same number of denoiser calls in PyTorch (random weights), eager or compiled with graphs."""
    try:
        import torch
    except ImportError as error:
        raise Skip("PyTorch is not installed") from error
    if not torch.cuda.is_available():
        raise Skip("this PyTorch sees no GPU, or was built without CUDA")
    torch.cuda.set_device(options.gpu)
    bundle = _bundle(options)
    calls = bundle.manifest.defaults.steps
    rows = 2 if bundle.manifest.defaults.guidance != 1.0 else 1
    precision = bundle.manifest.precision
    return {
        f"batch_{size}_ms": round(calls * torch_call_ms(bundle.manifest.preset, size * rows, precision, compiled), 3)
        for size in BATCHES
    }


def tensorrt(options: Options) -> dict[str, Any]:
    """TensorRT by the code that `generate` runs: its volumes against the CPU engine's, milliseconds a batch of them."""
    _gpu(options)
    bundle = _bundle(options)
    loop = _product(options, "tensorrt", 2)
    requests = _requests(_batch(bundle, 2))
    engine = _host_loop(bundle, loop.options)
    made = loop.start(requests)()
    images, labels = np.stack([volume.image for volume in made]), np.stack([volume.label for volume in made])
    figures = {"loop": loop.kind, **_compared(images, labels, engine.start(requests)())}
    for size in BATCHES:
        start = partial(_product(options, "tensorrt", size).start, _requests(_batch(bundle, size)))
        figures[f"volumes_batch_{size}_ms"] = round(wall_milliseconds(lambda start=start: start()()), 3)
    return figures


def volumes_to_disk(options: Options) -> dict[str, Any]:
    """Volumes a second from the command line's start to its end, files included."""
    _gpu(options)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "import sys; from sbldm.cli.main import main; sys.exit(main(sys.argv[1:]))"]
        command += ["generate", "--count", str(options.count), "--device", f"cuda:{options.gpu}", "--quiet"]
        command += ["--batch-size", "auto", "--out", str(Path(folder) / "run")]
        command += ["--bundle", options.bundle] if options.bundle else []
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    assert done.returncode == 0, f"generate ended with {done.returncode}: {done.stderr[-1000:]}"
    return {"volumes": options.count, "seconds": round(seconds, 2), "volumes_s": round(options.count / seconds, 2)}


ITEMS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "compile": compile_all,
    "kernels": kernels_against_references,
    "memcheck": lambda options: sanitizer(options, "memcheck"),
    "racecheck": lambda options: sanitizer(options, "racecheck"),
    "bandwidth": bandwidth,
    "capture": capture,
    "cpu-parity": against_cpu_engine,
    "loop-time": loop_time,
    "torch-eager": lambda options: torch_time(options, compiled=False),
    "torch-compile": lambda options: torch_time(options, compiled=True),
    "tensorrt": tensorrt,
    "to-disk": volumes_to_disk,
}
"""In the order in which they run."""


def _bundle(options: Options) -> Bundle:
    return load_bundle(options.bundle) if options.bundle else load_bundle()


def _gpu(options: Options) -> CudaDevice:
    """The GPU, current for the rest of the process."""
    try:
        device = CudaDevice(options.gpu)
    except BackendUnavailableError as error:
        raise Skip(str(error)) from error
    stack = ExitStack()
    stack.enter_context(device.current())
    atexit.register(stack.close)
    return device


def _components(device: CudaDevice, bundle: Bundle, gpu: int) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """((sampling stream, finishing stream), components on them)."""
    streams = (device.stream(), device.stream())
    try:
        return streams, OnnxRuntimeNetworks(bundle, gpu).components(1, streams)
    except BackendUnavailableError as error:
        raise Skip(str(error)) from error


def _settings(bundle: Bundle, batch: int) -> SamplingOptions:
    return SamplingOptions.default(bundle.manifest.defaults, batch_size=batch)


def _host_loop(bundle: Bundle, settings: SamplingOptions) -> HostLoop:
    """The CPU engine."""
    backend = OnnxRuntimeBackend(bundle, "cpu", available_threads())
    return HostLoop(model_of(bundle.manifest), backend.run, settings)


def _shape(bundle: Bundle, settings: SamplingOptions) -> LoopShape:
    columns = len(bundle.manifest.condition_columns)
    return LoopShape(settings.batch_size, bundle.manifest.latent.shape, columns, settings.guidance != 1.0)


def _batch(bundle: Bundle, size: int) -> LoopBatch:
    """Samples 0.. under the cohort's mean condition (0 when normalised)."""
    condition = np.zeros((size, len(bundle.manifest.condition_columns)), np.float32)
    attempts = np.zeros(size, np.int64)
    return LoopBatch(0, np.arange(size, dtype=np.uint64), attempts, condition, np.ones(size, np.float32))


def _ways(bundle: Bundle, options: Options) -> tuple[dict[str, bool], dict[str, Any]]:
    """Ways of running the loop and whether they use graphs; as a figure, why not."""
    refusal = capture_refusal(bundle, options.gpu)
    return ({"graph": True, "plain": False}, {}) if refusal is None else ({"plain": False}, {"no_graph": refusal})


def _requests(batch: LoopBatch) -> list[SampleRequest]:
    return [SampleRequest(int(k), 0, row) for k, row in zip(batch.samples, batch.condition, strict=True)]


def _product(options: Options, backend: str, size: int) -> CudaLoop:
    """The loop that `generate` takes on this GPU."""
    bundle = _bundle(options)
    try:
        chosen = choose_backend(bundle, backend, f"cuda:{options.gpu}", batch=size)
    except BackendUnavailableError as error:
        raise Skip(str(error)) from error
    assert isinstance(chosen, OnDevice)
    if chosen.loops is None:
        raise Skip(f"bundle {bundle.manifest.id} solves its masks on the host: no loop is on the GPU")
    return CudaLoop(bundle, chosen.loops, _settings(bundle, size))


def _latents(device: CudaDevice, loop: SamplingLoop, batch: LoopBatch, plan: SamplingPlan, stream: Any) -> np.ndarray:
    loop.sample(batch, plan, stream)
    latents = device.pinned(loop.latent.shape, loop.latent.dtype)
    device.download(loop.latent, latents, stream)
    device.synchronize(device.record(stream))
    return latents


def _compared(images: np.ndarray, labels: np.ndarray, expected: list[Volume]) -> dict[str, float]:
    """PSNR of images (N, M, X, Y, Z) and Dice of the whole tumour against the CPU engine's volumes."""
    error = np.mean((images - np.stack([volume.image for volume in expected]).astype(float)) ** 2)
    return {
        "image_psnr_db": float(10 * np.log10(1000.0**2 / error)) if error else float("inf"),
        "label_dice": _dice(labels > 0, np.stack([volume.label for volume in expected]) > 0),
    }


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0
