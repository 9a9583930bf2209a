"""The items of `gpu_check`: each returns its figures, raises `Skip` with the reason, or fails with an exception."""

from __future__ import annotations

import atexit
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..engine.backends.choose import choose_backend
from ..engine.bundle.checks import check_inputs
from ..engine.bundle.load import Bundle, load_bundle
from ..engine.cuda.batch_loop import CudaLoop
from ..engine.cuda.footprint import MOST_STAGED, footprint
from ..engine.cuda.gpu import CudaDevice
from ..engine.cuda_sessions import PROVIDER, open_cuda_session
from ..engine.errors import BackendUnavailableError
from ..engine.run.ahead import most_processes, processes_ahead, working_ahead
from ..engine.run.open_loop import device_loops, open_loop
from ..engine.run.request import GenerateRequest
from ..engine.sampling.host import HostLoop
from ..engine.sampling.types import Backend, SamplingOptions
from ..kernels import compile as kernel_compile
from .gpu_proof import (
    SAMPLES,
    Failed,
    Reference,
    make_reference,
    on_masks_of,
    proof_options,
    proof_requests,
    prove_all,
    prove_components,
    prove_latents,
    prove_loop,
    prove_repeats,
)
from .gpu_rates import denoiser_rate, matrix_tflops
from .gpu_timing import (
    bandwidth_of_assemble,
    bandwidth_of_copy,
    bandwidth_of_ddim_step,
    torch_call_ms,
    wall_milliseconds,
)
from .host_rate import host_rate, make_all
from .kernel_checks import all_checks

TOLD = "gpu_check result: "
"""Begins a line of `tell`."""

BATCHES = (1, 8, 32)
"""Batch sizes that the loop is timed at; in the mask-first form of those up to `MOST_STAGED`."""

DENOISER_BATCH = 32
"""Samples at which the denoiser's share of the matrix rate is told."""

MATRIX_TARGET = 0.35
"""Share of the measured matrix rate that the denoiser should reach in 16 bits."""

BANDWIDTH_TARGET = 0.8
"""Share of a device copy's bandwidth that `ddim_step` and `assemble` should reach."""


class Skip(Exception):
    """An item cannot run here; the message is the reason."""


@dataclass(frozen=True)
class Options:
    """What the command line gives an item."""

    gpu: int
    bundle: str | None
    count: int  # volumes that go to disk
    steps: int | None = None  # of the samples that are compared; None: the bundle's
    shared: bool = False  # other processes use the GPU meanwhile


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
    program = sanitizer_program()
    if program is None:
        raise Skip('compute-sanitizer is not here: pip install "sbldm-engine[gpu-check]"')
    # our code looks at each call's status; bindings ask for calls of later drivers
    command = [program, "--tool", tool, "--error-exitcode", "9", "--report-api-errors", "no"]
    command += [sys.executable, "-m", "sbldm.benchmarks.gpu_check", "--item", "kernels", "--gpu", str(options.gpu)]
    command += ["--bundle", options.bundle] if options.bundle else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = f"{tool}: {(done.stdout + done.stderr)[-2000:]}"
    assert done.returncode == 0, said
    assert '"figures"' in done.stdout, said  # a process that sees no GPU ends well, too
    return {"tool": tool}


def sanitizer_program() -> str | None:
    """compute-sanitizer of the CUDA toolkit, or of its wheel; None without."""
    found, spec = shutil.which("compute-sanitizer"), find_spec("nvidia")
    folders = [] if found or spec is None else list(spec.submodule_search_locations or ())
    in_wheels = (str(path) for folder in folders for path in Path(folder).glob("cu*/bin/compute-sanitizer"))
    return found or next(in_wheels, None)


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


def proof(options: Options, name: str, precision: str) -> dict[str, Any]:
    """A backend in a precision, by the code that `generate` runs, against the CPU; see `prove`."""
    device, bundle = _gpu(options), _bundle(options)
    backend = _backend(options, bundle, name, precision)
    reference = make_reference(bundle, proof_options(bundle, steps=options.steps))
    before, total = device.memory()
    figures = prove(bundle, backend, reference, proof_options(bundle, steps=options.steps))
    if not options.shared:
        figures["memory_mib"] = {
            "taken": round((before - device.memory()[0]) / 2**20),
            "computed": round(footprint(bundle, SAMPLES, False, precision).total / 2**20),
            "of": round(total / 2**20),
        }
    if name == "onnxruntime":
        figures["placement"] = _placement(options, bundle, precision)
    return figures


def prove(bundle: Bundle, backend: Backend, reference: Reference, options: SamplingOptions) -> dict[str, Any]:
    """Components, latents and volumes of a backend within the limits of its precision; the same bytes twice, alone,
    with the processes that a run has beside it, and by plain launches where it has graphs.

    Raises:
        Failed: what is not so.
    """
    precision = backend.precision
    loop = _loop(bundle, backend, options)
    figures: dict[str, Any] = {"loop": loop.kind, "reason": loop.reason, "version": backend.version}
    requests = on_masks_of(reference) if bundle.manifest.mask_first is not None else reference.requests

    def repeats() -> dict[str, Any]:
        runs = [(name, loop.start(reference.requests)()) for name in ("first", "second")]
        runs.append(("each alone", [loop.start([request])()[0] for request in reference.requests]))
        processes = processes_ahead(loop, None)
        if processes:
            with working_ahead(loop, processes) as working:
                runs.append(("other processes", make_all(working, [reference.requests])))
        loops = device_loops(backend)
        if loops is not None and loop.kind != "launches":
            loops.refuse_graphs("compared with a graph")
            runs.append(("plain launches", _loop(bundle, backend, options).start(reference.requests)()))
        return prove_repeats(runs)

    parts: list[Callable[[], dict[str, Any]]] = [
        lambda: prove_components(bundle, backend.run, precision),
        lambda: prove_latents(loop.latents(requests), reference.latents, precision),
        lambda: prove_loop(bundle, reference, loop, precision),
        repeats,
    ]
    try:
        return figures | prove_all(parts)
    except Failed as failed:
        failed.figures = figures | failed.figures
        raise


def tell(outcome: dict[str, Any]) -> None:
    """Print what an item has found, for the process that started it; the last counts, also where time ran out."""
    print(TOLD + json.dumps(outcome), flush=True)


def loop_time(options: Options, name: str, precision: str) -> dict[str, Any]:
    """Milliseconds a batch and volumes a second, in host memory, of the loop that `generate` takes."""
    _gpu(options)
    bundle = _bundle(options)
    backend = _backend(options, bundle, name, precision)
    figures: dict[str, Any] = {"steps": bundle.manifest.defaults.steps}
    staged = bundle.manifest.mask_first is not None
    for size in (size for size in BATCHES if size <= MOST_STAGED or not staged):
        settings = SamplingOptions.default(bundle.manifest.defaults, batch_size=size)
        loop = _loop(bundle, backend, settings)
        with working_ahead(loop, processes_ahead(loop, None)) as working:
            requests = proof_requests(bundle, size)
            ms = wall_milliseconds(partial(make_all, working, [requests] * working.in_flight)) / working.in_flight
        figures |= {f"batch_{size}_ms": round(ms, 3), f"batch_{size}_volumes_s": round(1000 * size / ms, 2)}
        tell({"figures": figures})
    return figures


def rate_of_the_host(options: Options) -> dict[str, Any]:
    """Volumes a second of the mask-first form if its networks took no time, by the processes that `generate` takes."""
    bundle = _bundle(options)
    processes = most_processes(None)
    rate = host_rate(bundle, processes, MOST_STAGED, batches=2 + processes)
    return {"processes": processes, "batch": MOST_STAGED, **{k: round(v, 3) for k, v in asdict(rate).items()}}


def share_of_peak(options: Options, name: str, precision: str) -> dict[str, Any]:
    """10^12 operations a second of the denoiser, and their share of what cuBLAS reaches."""
    device, bundle = _gpu(options), _bundle(options)
    loops = device_loops(_backend(options, bundle, name, precision))
    assert loops is not None
    samples = DENOISER_BATCH if bundle.manifest.mask_first is None else MOST_STAGED
    try:
        ms, rate = denoiser_rate(device, bundle, loops, samples)
        matrix = matrix_tflops(device, precision)
    except BackendUnavailableError as error:
        raise Skip(str(error)) from error
    share = rate / matrix
    figures = {"batch": samples, "ms": round(ms, 3), "tflop_s": round(rate, 1), "matrix_tflop_s": round(matrix, 1)}
    return {**figures, "share": round(share, 3), "target_met": share >= MATRIX_TARGET}


def torch_time(options: Options, compiled: bool, precision: str) -> dict[str, Any]:
    """Milliseconds of the same number of denoiser calls in PyTorch (random weights), eager or compiled with graphs.

    With TF32 where we have it and not elsewhere. Of the mask-first form a call of the image's denoiser, which stands
    beside that of `share_of_peak`.
    """
    try:
        import torch
    except ImportError as error:
        raise Skip("PyTorch is not installed") from error
    if not torch.cuda.is_available():
        raise Skip("this PyTorch sees no GPU, or was built without CUDA")
    torch.cuda.set_device(options.gpu)
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    bundle = _bundle(options)
    staged = bundle.manifest.mask_first is not None
    calls, sizes = (1, (MOST_STAGED,)) if staged else (bundle.manifest.defaults.steps, BATCHES)
    rows = 2 if bundle.manifest.defaults.guidance != 1.0 else 1
    times = {size: calls * torch_call_ms(bundle, size * rows, precision, compiled) for size in sizes}
    return {f"batch_{size}_{'call_' if staged else ''}ms": round(ms, 3) for size, ms in times.items()}


def volumes_to_disk(options: Options, name: str, precision: str) -> dict[str, Any]:
    """Volumes a second from the command line's start to its end, files included."""
    _gpu(options)
    _backend(options, _bundle(options), name, precision)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sbldm", "generate", "--count", str(options.count), "--quiet"]
        command += ["--device", f"cuda:{options.gpu}", "--backend", name, "--precision", precision]
        command += ["--out", str(Path(folder) / "run")]
        command += ["--bundle", options.bundle] if options.bundle else []
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise Failed([f"generate ended with {done.returncode}: {done.stderr[-1000:]}"], {})
        size = json.loads((Path(folder) / "run" / "run.json").read_bytes())["resolved"]["batch_size"]
    rate = round(options.count / seconds, 2)
    return {"volumes": options.count, "batch": size, "seconds": round(seconds, 2), "volumes_s": rate}


Item = Callable[[Options], dict[str, Any]]
BACKENDS = ("onnxruntime", "tensorrt")


def proofs(bundle: Bundle) -> dict[str, Item]:
    """What decides whether a GPU passes, by item."""
    found: dict[str, Item] = {
        "compile": compile_all,
        "kernels": kernels_against_references,
    }
    for name in BACKENDS:
        for precision in held_precisions(bundle):
            found[f"proof-{name}-{precision}"] = partial(proof, name=name, precision=precision)
    found |= {tool: partial(sanitizer, tool=tool) for tool in ("memcheck", "racecheck")}
    return found


def measurements(bundle: Bundle) -> dict[str, Item]:
    """What is timed, by item."""
    found: dict[str, Item] = {"bandwidth": bandwidth}
    if bundle.manifest.mask_first is not None:
        found["host"] = rate_of_the_host
    for precision in held_precisions(bundle):
        for name in BACKENDS:
            found[f"loop-{name}-{precision}"] = partial(loop_time, name=name, precision=precision)
            found[f"share-{name}-{precision}"] = partial(share_of_peak, name=name, precision=precision)
        found[f"torch-eager-{precision}"] = partial(torch_time, compiled=False, precision=precision)
        found[f"torch-compile-{precision}"] = partial(torch_time, compiled=True, precision=precision)
    best = held_precisions(bundle)[-1]
    return found | {f"to-disk-{name}": partial(volumes_to_disk, name=name, precision=best) for name in BACKENDS}


def held_precisions(bundle: Bundle) -> tuple[str, ...]:
    """What a GPU can compute a bundle in, what `auto` takes last."""
    plain, *reduced = bundle.precisions
    return (plain, *(("tf32",) if plain == "fp32" else ()), *reversed(reduced))


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


def _backend(options: Options, bundle: Bundle, name: str, precision: str) -> Backend:
    try:
        return choose_backend(bundle, name, f"cuda:{options.gpu}", precision, batch=SAMPLES)
    except BackendUnavailableError as error:
        if _is_installed(name):
            raise
        raise Skip(str(error)) from error


def _is_installed(name: str) -> bool:
    """Whether a package that brings a backend on GPUs is here, so that its refusal is a failure and no omission."""
    from ..engine.doctor import CANDIDATES
    from ..engine.versions import installed

    return any(installed(d) for backend, device, ds, _ in CANDIDATES if (backend, device) == (name, "cuda") for d in ds)


def _loop(bundle: Bundle, backend: Backend, settings: SamplingOptions) -> CudaLoop | HostLoop:
    asked = GenerateRequest(bundle=bundle, count=1, **_sampling(settings)).options()
    loop = open_loop(bundle, backend, asked, settings.batch_size)
    assert isinstance(loop, CudaLoop | HostLoop)
    return loop


def _sampling(settings: SamplingOptions) -> dict[str, Any]:
    names = ("steps", "sampler", "eta", "guidance", "seed")
    return {name: getattr(settings, name) for name in names}


def _placement(options: Options, bundle: Bundle, precision: str) -> dict[str, int]:
    """Nodes of the denoiser by where ONNX Runtime ran them; Failed where one was elsewhere than on the GPU."""
    path, spec = bundle.component_path("denoiser", precision), bundle.manifest.components["denoiser"]
    with tempfile.TemporaryDirectory() as folder:
        session = open_cuda_session(path, options.gpu, 1, precision, profile=str(Path(folder) / "profile"))
        session.run(None, check_inputs(spec, 1))
        found = providers(Path(session.end_profiling()))
    if set(found) != {PROVIDER}:
        raise Failed([f"the denoiser's nodes ran on {found}"], {"placement": found})
    return found


def providers(profile: Path) -> dict[str, int]:
    """Runs of nodes by the provider that made them, of a profile that ONNX Runtime wrote."""
    events = json.loads(profile.read_bytes())
    return dict(Counter(event["args"]["provider"] for event in events if "provider" in event.get("args", {})))
