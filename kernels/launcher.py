"""Launches the kernels, through PyCUDA or cuda-bindings: modules compiled for the GPU that is there, once."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from . import cuda_bindings
from .calls import THREADS, KernelCall
from .compile import ENTRIES, cached_cubin

MINIMUM_CAPABILITY = (8, 0)


class GpuUnavailableError(RuntimeError):
    """There is no usable NVIDIA GPU, driver or Python binding of it; the message says which and what to do."""


def cuda_driver() -> Any:
    """The initialised driver: the module `pycuda.driver`, or `cuda_bindings` under its names where PyCUDA is not here.

    GpuUnavailableError where neither is installed, the driver library is missing or too old, or there is no GPU.
    """
    driver = _driver_module()
    try:
        driver.init()
        count = driver.Device.count()
    except driver.Error as error:
        raise GpuUnavailableError(f"the NVIDIA driver does not start: {error}") from error
    if count == 0:
        raise GpuUnavailableError("the NVIDIA driver sees no GPU")
    return driver


def _driver_module() -> Any:
    try:
        return import_module("pycuda.driver")
    except ModuleNotFoundError:
        pass
    except ImportError as error:
        raise GpuUnavailableError(f"the NVIDIA driver's libcuda does not load: {error}") from error
    try:
        import_module("cuda.bindings.driver")
    except ImportError as error:
        raise GpuUnavailableError('cuda-bindings is not installed: pip install "sbldm-engine[gpu]"') from error
    return cuda_bindings


def gpu_count() -> int:
    """NVIDIA GPUs that this process may use, at least one; GpuUnavailableError otherwise."""
    return cuda_driver().Device.count()


class KernelLauncher:
    """Kernels for the current context's GPU. `cache` is the folder of compiled kernels, by default the user's."""

    def __init__(self, capability: tuple[int, int], cache: Path | None = None) -> None:
        if capability < MINIMUM_CAPABILITY:
            have, need = (".".join(map(str, pair)) for pair in (capability, MINIMUM_CAPABILITY))
            raise GpuUnavailableError(f"this GPU has compute capability {have}; the kernels need {need} or later")
        self._driver = cuda_driver()
        self._architecture = capability[0] * 10 + capability[1]
        self._cache = cache
        self._modules: dict[str, Any] = {}
        self._functions: dict[str, Any] = {}

    def launch(self, call: KernelCall, stream: Any) -> None:
        """Queues a kernel; KernelCompileError where it does not compile, GpuUnavailableError where it does not load."""
        function = self._functions.get(call.entry) or self._load(call)
        function.prepared_async_call(call.grid, (THREADS, 1, 1), stream, call.parameters)

    def _load(self, call: KernelCall) -> Any:
        """The kernel, prepared to take its struct as so many bytes."""
        source = ENTRIES[call.entry]
        if source not in self._modules:
            cubin = cached_cubin(source, self._architecture, self._cache)
            try:
                self._modules[source] = self._driver.module_from_buffer(cubin)
            except self._driver.Error as error:
                raise GpuUnavailableError(
                    f"the driver does not load {source}.cu for sm_{self._architecture} ({error}): is it older than "
                    "the compiler?"
                ) from error
        function = self._modules[source].get_function(call.entry)
        function.prepare([f"{len(call.parameters)}s"])
        self._functions[call.entry] = function
        return function
