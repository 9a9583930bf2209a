"""What this machine can run, and why not the rest."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from .backends.choose import choose_backend
from .backends.selection import stored_choice
from .bundle.load import Bundle
from .cuda.loops import OnDevice
from .errors import BackendUnavailableError, UsageError
from .processor import available_threads, cpu_name, has_bf16
from .run.open_sampler import sampler_on
from .run.request import GenerateRequest
from .sampling.types import LoopKind

# backend, device, distribution that brings it, extra that installs it
CANDIDATES = (
    ("onnxruntime", "cpu", ("onnxruntime", "onnxruntime-gpu"), "cpu"),
    ("openvino", "cpu", ("openvino",), "openvino"),
    ("onnxruntime", "cuda", ("onnxruntime-gpu",), "gpu"),
    ("tensorrt", "cuda", ("tensorrt", "tensorrt-rtx"), "gpu"),
)


_LOOPS: dict[LoopKind, str] = {
    "host": "step by step from this process",
    "graph": "as one CUDA graph a batch",
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
    """The machine and every backend on it."""

    python: str
    system: str
    cpu: str
    bf16: bool  # the CPU multiplies bfloat16 in hardware
    threads: int
    findings: tuple[Finding, ...]
    choice: str  # what `--backend auto` takes, and why


def diagnose(bundle: Bundle) -> Diagnosis:
    """Try every backend on the bundle's components; on a GPU also its sampling loop, with one step."""
    findings = tuple(_try(bundle, *candidate) for candidate in CANDIDATES)
    try:
        chosen = choose_backend(bundle)
        choice = f"{chosen.name} on {chosen.device}, {chosen.precision}, {chosen.threads} threads; {_reason(bundle)}"
    except BackendUnavailableError as error:
        choice = f"none: {error}"
    return Diagnosis(
        platform.python_version(), platform.platform(), cpu_name(), has_bf16(), available_threads(), findings, choice
    )


def _reason(bundle: Bundle) -> str:
    choice = stored_choice(bundle, available_threads())
    if choice is None:
        return "the default; `sbldm-engine bench --select` measures whether another is faster here"
    return f"the fastest within the parity limits when `bench --select` measured on {choice.date}"


def _try(bundle: Bundle, name: str, device: str, distributions: tuple[str, ...], extra: str) -> Finding:
    installed = [f"{d} {v}" for d in distributions if (v := _version(d))]
    if not installed:
        return Finding(
            name, device, False, f'{" or ".join(distributions)} not installed; pip install "sbldm-engine[{extra}]"'
        )
    try:
        detail = _tensorrt(bundle) if name == "tensorrt" else _offer(bundle, name, device)
    except (BackendUnavailableError, UsageError) as error:
        return Finding(name, device, False, str(error))
    return Finding(name, device, True, f"{', '.join(installed)}, {detail}")


def _offer(bundle: Bundle, name: str, device: str) -> str:
    """The backend's precision, and on a GPU how its sampling loop runs."""
    backend = choose_backend(bundle, name, device)
    if not isinstance(backend, OnDevice):
        return backend.precision
    sampler = sampler_on(bundle, backend, GenerateRequest(bundle=bundle, count=1, steps=1).options(), 1)
    return f"{backend.precision}, sampling {_LOOPS[sampler.loop]} ({sampler.reason})"


def _tensorrt(bundle: Bundle) -> str:
    """TensorRT's precision and GPU; no engine is built."""
    from .backends.tensorrt.build import load_flavour
    from .backends.tensorrt.engines import present_target
    from .cuda.gpu import CudaDevice

    load_flavour()
    present_target()
    engines = "engines are built at their first use, or by `sbldm-engine build`"
    return f"{bundle.manifest.precision} on {CudaDevice().name}; {engines}"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
