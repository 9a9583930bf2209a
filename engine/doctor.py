"""What this machine can run, and why not the rest."""

from __future__ import annotations

import os
import platform
import re
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from .backends.choose import choose_backend, gpu_precision
from .backends.selection import stored_choice
from .bundle.load import Bundle
from .cuda.readiness import Part, gpu_parts
from .errors import BackendUnavailableError, UsageError
from .onnx_sessions import both_installed
from .portable import cache_home, has_flock, memory_bytes, process_limits
from .processor import CpuLimit, available_threads, cgroup_memory, cpu_limits, cpu_name, has_bf16
from .run.open_loop import open_loop
from .run.request import GenerateRequest
from .sampling.types import LoopKind
from .threads import startable_threads
from .versions import installed

# backend, device, distribution that brings it, extra that installs it
CANDIDATES = (
    ("onnxruntime", "cpu", ("onnxruntime", "onnxruntime-gpu"), "cpu"),
    ("openvino", "cpu", ("openvino",), "openvino"),
    ("onnxruntime", "cuda", ("onnxruntime-gpu",), "gpu"),
    ("tensorrt", "cuda", ("tensorrt", "tensorrt-rtx"), "tensorrt"),
)

_MOST_THREADS = 64
_PACKAGES = (
    "numpy", "scipy", "scikit-image", "nibabel", "isal", "pillow", "psutil", "onnxruntime", "onnxruntime-gpu",
    "openvino", "tensorrt", "tensorrt-rtx", "pycuda", "cuda-bindings", "nvidia-cuda-nvrtc",
    "nvidia-cudnn-cu13", "ray", "torch", "lightning", "monai", "onnx",
)  # fmt: skip
_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "SLURM_CPUS_PER_TASK", "SLURM_JOB_NUM_NODES",
    "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "LANG", "LC_ALL", "PYTHONIOENCODING", "TERM", "NO_COLOR",
    "FORCE_COLOR", "ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED",
)  # fmt: skip
_PATH = re.compile(r"(?<![\w.])(?:/[^\s/:;,'\"()]+)*/([^\s/:;,'\"()]+)")
_LOOPS: dict[LoopKind, str] = {
    "host": "step by step from this process",
    "graph": "as one CUDA graph a batch",
    "graphs": "with a CUDA graph a network",
    "launches": "by plain launches",
}


@dataclass(frozen=True)
class Finding:
    """One way to run a bundle here, or the reason why it is none."""

    backend: str
    device: str
    usable: bool
    detail: str  # versions and precision, or what is missing and how to get it


@dataclass(frozen=True)
class Diagnosis:
    """The machine and every backend on it: fit to be sent to others, without names or paths of people or files."""

    version: str | None
    python: str
    system: str
    cpu: str
    bf16: bool  # the CPU multiplies bfloat16 in hardware
    threads: int
    cpu_limits: tuple[CpuLimit, ...]  # the tightest, which decides, first
    startable_threads: int  # more of them, at most `_MOST_THREADS`
    memory: dict[str, int]  # bytes
    process_limits: dict[str, int | None]
    file_locks: bool  # whether the system has them; a file system may still refuse
    cache: bool  # whether the user has a cache folder that can be written
    environment: dict[str, str]  # of `_VARIABLES`, those that are set
    packages: dict[str, str]  # those of `_PACKAGES` that are installed
    bundle: str  # its id and the beginning of its hash
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...]
    gpu: tuple[Part, ...]  # what an NVIDIA GPU needs here
    choice: str  # what `--backend auto` takes, and why


def diagnose(bundle: Bundle) -> Diagnosis:
    """Try every backend on the bundle's components; on a GPU also its sampling loop, with one step."""
    findings = tuple(_try(bundle, *candidate) for candidate in CANDIDATES)
    try:
        chosen = choose_backend(bundle)
        choice = f"{chosen.name} on {chosen.device}, {chosen.precision}, {chosen.threads} threads; {_reason(bundle)}"
    except BackendUnavailableError as error:
        choice = _without_path(f"none: {error}", bundle)
    limits = cpu_limits()
    return Diagnosis(
        version=installed("sbldm-engine"),
        python=platform.python_version(),
        system=platform.platform(),
        cpu=cpu_name(),
        bf16=has_bf16(),
        threads=limits[0].threads,
        cpu_limits=tuple(limits),
        startable_threads=startable_threads(_MOST_THREADS),
        memory=memory_bytes() | ({} if (limit := cgroup_memory()) is None else {"cgroup": limit}),
        process_limits=process_limits(),
        file_locks=has_flock(),
        cache=_cache_is_writable(),
        environment={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        packages={name: found for name in _PACKAGES if (found := installed(name))},
        bundle=f"{bundle.manifest.id} {bundle.sha256[:12]}",
        warnings=tuple(filter(None, (both_installed(),))),
        findings=findings,
        gpu=tuple(gpu_parts()),
        choice=choice,
    )


def support_bundle(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as plain data to send along: paths, which carry names of users and patients, are cut short."""
    return without_paths(asdict(diagnosis))


def without_paths(data: Any, *folders: str) -> Any:
    """Every text with its absolute paths cut to their last part; `folders` and ours, which may hold blanks, hidden."""
    if isinstance(data, dict):
        return {key: without_paths(value, *folders) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_paths(value, *folders) for value in data]
    if not isinstance(data, str):
        return data
    for folder in (*folders, *_own_folders()):
        data = data.replace(folder, "PATH")
    return _PATH.sub(r"\1", data)


def _own_folders() -> list[str]:
    found = {os.path.expanduser("~"), sys.prefix, sys.base_prefix, *sys.path}
    with suppress(OSError):
        found.add(os.getcwd())
    return sorted((folder for folder in found if folder.startswith("/") and len(folder) > 1), key=len, reverse=True)


def _cache_is_writable() -> bool:
    try:
        folder = cache_home()
    except OSError:
        return False
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return there is not None and there.is_dir() and os.access(there, os.W_OK)


def _without_path(text: str, bundle: Bundle) -> str:
    """A message without the bundle's place, which may carry a name."""
    return text.replace(str(bundle.path.absolute()), "BUNDLE").replace(str(bundle.path), "BUNDLE")


def _reason(bundle: Bundle) -> str:
    choice = stored_choice(bundle, available_threads())
    if choice is None:
        return "the default; `sbldm-engine bench --select` measures whether another is faster here"
    return f"the fastest within the parity limits when `bench --select` measured on {choice.date}"


def _try(bundle: Bundle, name: str, device: str, distributions: tuple[str, ...], extra: str) -> Finding:
    present = [f"{d} {v}" for d in distributions if (v := installed(d))]
    if not present:
        return Finding(
            name, device, False, f'{" or ".join(distributions)} not installed; pip install "sbldm-engine[{extra}]"'
        )
    try:
        detail = _tensorrt(bundle) if name == "tensorrt" else _offer(bundle, name, device)
    except (BackendUnavailableError, UsageError) as error:
        return Finding(name, device, False, _without_path(str(error), bundle))
    return Finding(name, device, True, f"{', '.join(present)}, {detail}")


def _offer(bundle: Bundle, name: str, device: str) -> str:
    """The backend's precision, and on a GPU how its sampling loop runs."""
    backend = choose_backend(bundle, name, device)
    if backend.device == "cpu":
        return backend.precision
    loop = open_loop(bundle, backend, GenerateRequest(bundle=bundle, count=1, steps=1).options(), 1)
    return f"{backend.precision}, sampling {_LOOPS[loop.kind]} ({loop.reason})"


def _tensorrt(bundle: Bundle) -> str:
    """TensorRT's precision and GPU; no engine is built."""
    from .backends.tensorrt.build import load_flavour
    from .backends.tensorrt.engines import present_target
    from .cuda.gpu import CudaDevice

    load_flavour()
    present_target()
    engines = "engines are built at their first use, or by `sbldm-engine build`"
    return f"{gpu_precision(bundle, 'auto', 'tensorrt')} on {CudaDevice().name}; {engines}"
