"""Backends run a bundle's components; `choose_backend` picks one and never falls back silently."""

from __future__ import annotations

from ..bundle.load import Bundle
from ..errors import UsageError
from ..sampling.types import Backend
from ..threads import default_threads, require_threads

BACKENDS = ("onnxruntime", "openvino", "tensorrt")


def choose_backend(
    bundle: Bundle,
    name: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    batch: int = 1,
    *,
    workers: int = 1,
    shards: int = 1,
) -> Backend:
    """The backend that was asked for; for `auto`, ONNX Runtime or what `bench --select` measured to be faster here.

    Args:
        bundle: the model to run.
        name: `auto`, one of `BACKENDS`, or a mix such as `openvino-denoiser-decoder` (OpenVINO for those components).
        device: `auto`, `cpu`, `cuda` or `cuda:I`.
        precision: `auto`, or what the backend offers; on a GPU also `tf32`, and 16 bits where the bundle has them.
        threads: of the CPU; None: what `default_threads` says of this many workers and shards.
        batch: volumes that TensorRT's engines take at once.
        workers: processes on this machine that run the bundle at once.
        shards: parts of the run.

    Raises:
        UsageError: an unknown name, or a combination that no backend offers.
        BackendUnavailableError: what was asked for cannot run here.
    """
    kind = _device_kind(device)
    if not (name in ("auto", *BACKENDS) or name.startswith("openvino-")):
        raise UsageError(f"--backend {name}: allowed auto, {', '.join(BACKENDS)}, openvino-COMPONENT-...")
    networks = len(bundle.manifest.components)
    if threads is None:
        threads = default_threads(networks, workers, shards)
    elif kind != "cuda" and name != "tensorrt":
        require_threads(threads, networks, workers)
    if name == "auto" and precision == "auto" and kind != "cuda":
        name, precision = _automatic(bundle, threads)
    if name.startswith("openvino"):
        if kind == "cuda":
            raise UsageError(f"--device {device}: {name} runs on the CPU")
        return _openvino(bundle, name, precision, threads)
    if name == "tensorrt":
        return _tensorrt(bundle, device, precision, batch)
    if kind == "cuda":
        return _cuda(bundle, device, threads, precision)
    backend = _cpu(bundle, threads)
    if precision not in ("auto", backend.precision):
        raise UsageError(f"--precision {precision}: this bundle holds {backend.precision} for onnxruntime on a CPU")
    return backend


def _device_kind(device: str) -> str:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (":" in device and (kind != "cuda" or not index.isdecimal())):
        raise UsageError(f"--device {device}: allowed auto, cpu, cuda, cuda:0, cuda:1, ...")
    return kind


def _automatic(bundle: Bundle, threads: int) -> tuple[str, str]:
    from .selection import stored_choice

    choice = stored_choice(bundle, threads)
    return (choice.backend, choice.precision) if choice else ("onnxruntime", "auto")


def _openvino(bundle: Bundle, name: str, precision: str, threads: int) -> Backend:
    from .mixed import MixedBackend
    from .openvino import OpenVinoBackend

    if name == "openvino":
        return OpenVinoBackend(bundle, precision, threads)
    return MixedBackend(bundle, name, precision, threads)


def _cpu(bundle: Bundle, threads: int) -> Backend:
    from .onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(bundle, "cpu", threads)


def _cuda(bundle: Bundle, device: str, threads: int, precision: str) -> Backend:
    from .onnxruntime_cuda import OnnxRuntimeCudaBackend

    return OnnxRuntimeCudaBackend(
        bundle, device_index(device), threads, gpu_precision(bundle, precision, "onnxruntime")
    )


def _tensorrt(bundle: Bundle, device: str, precision: str, batch: int) -> Backend:
    if device == "cpu":
        raise UsageError("--device cpu: tensorrt runs on an NVIDIA GPU")
    chosen = gpu_precision(bundle, precision, "tensorrt")
    from .tensorrt.backend import open_tensorrt

    return open_tensorrt(bundle, device_index(device), batch, chosen)


def gpu_precision(bundle: Bundle, precision: str, backend: str) -> str:
    """What a GPU computes a bundle in: for `auto` 16 bits where the bundle holds such graphs, which passed its gate.

    UsageError where the bundle does not hold what is asked for; `tf32` are its fp32 graphs.
    """
    held = bundle.precisions
    if precision == "auto":
        return (*held[1:], held[0])[0]
    allowed = (*held, "tf32") if held[0] == "fp32" else held
    if precision not in allowed:
        raise UsageError(
            f"--precision {precision}: this bundle holds {', '.join(allowed)} for {backend} on a GPU; "
            "`export --precision` adds another"
        )
    return precision


def device_index(device: str) -> int:
    """I of `cuda:I`, 0 of `cuda` and `auto`."""
    return int(device.partition(":")[2] or 0)
