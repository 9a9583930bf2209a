"""What an NVIDIA GPU needs here, part by part: what is there, and how to get what is missing."""

from __future__ import annotations

import contextlib
import ctypes
import io
from collections.abc import Callable
from dataclasses import dataclass

from ...kernels import cuda_bindings
from ...kernels.compile import KernelCompileError, available_compilers, require_compiler
from ...kernels.launcher import MINIMUM_CAPABILITY, GpuUnavailableError, cuda_driver
from ..cuda_sessions import PROVIDER
from ..errors import BackendUnavailableError
from ..onnx_sessions import import_onnxruntime
from ..versions import installed

LEAST_DRIVER = 13000  # CUDA version that the wheels of constraints-gpu.txt are built with
LIBRARIES = ("libcudart.so.13", "libcublas.so.13", "libcudnn.so.9", "libcufft.so.12")
"""Of CUDA and cuDNN, which ONNX Runtime loads."""


@dataclass(frozen=True)
class Part:
    """One thing that a GPU needs."""

    name: str
    there: bool
    detail: str  # versions, or what is missing and how to get it


def gpu_parts() -> list[Part]:
    """The parts in the order in which they are needed, each looked at whether those before it are there or not."""
    return [_part(name, look) for name, look in _PARTS.items()]


def _part(name: str, look: Callable[[], str]) -> Part:
    try:
        return Part(name, True, look())
    except (GpuUnavailableError, BackendUnavailableError, KernelCompileError) as error:
        return Part(name, False, str(error).splitlines()[0])


def _driver() -> str:
    driver = cuda_driver()
    version = driver.get_driver_version() if driver is cuda_bindings else cuda_bindings.get_driver_version()
    text = f"CUDA {version // 1000}.{version % 1000 // 10}"
    if version < LEAST_DRIVER:
        raise GpuUnavailableError(f"it knows {text}; update it to 580 or later, which knows CUDA 13")
    return f"{text}, through {driver.__name__.partition('.')[0].replace('sbldm', 'cuda-bindings')}"


def _gpus() -> str:
    driver, found = cuda_driver(), []
    for index in range(driver.Device.count()):
        gpu = driver.Device(index)
        major, minor = gpu.compute_capability()
        told = f"cuda:{index} {gpu.name()}, {gpu.total_memory() / 2**30:.0f} GiB, compute capability {major}.{minor}"
        found.append(told if (major, minor) >= MINIMUM_CAPABILITY else f"{told} (8.0 is the least)")
    if all("the least" in told for told in found):
        raise GpuUnavailableError("; ".join(found))
    return "; ".join(found)


def _compiler() -> str:
    require_compiler()
    return " and ".join(available_compilers())


def _onnxruntime() -> str:
    module = import_onnxruntime()
    if PROVIDER not in module.get_available_providers():
        raise BackendUnavailableError('built without CUDA; pip uninstall onnxruntime; pip install "sbldm-engine[gpu]"')
    return f"onnxruntime-gpu {module.__version__}"


def _libraries() -> str:
    with contextlib.suppress(BackendUnavailableError), contextlib.redirect_stdout(io.StringIO()):
        import_onnxruntime().preload_dlls()
    missing = []
    for name in LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    if missing:
        raise BackendUnavailableError(
            f'{", ".join(missing)} not found; pip install "sbldm-engine[gpu]" -c constraints-gpu.txt'
        )
    return ", ".join(LIBRARIES)


def _tensorrt() -> str:
    found = [f"{name} {version}" for name in ("tensorrt", "tensorrt-rtx") if (version := installed(name))]
    if not found:
        raise BackendUnavailableError('none; pip install "sbldm-engine[tensorrt]" or "sbldm-engine[tensorrt-rtx]"')
    return ", ".join(found)


_PARTS: dict[str, Callable[[], str]] = {
    "driver": _driver,
    "GPUs": _gpus,
    "kernel compiler": _compiler,
    "CUDA libraries": _libraries,
    "ONNX Runtime": _onnxruntime,
    "TensorRT": _tensorrt,
}
