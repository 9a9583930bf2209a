"""An NVIDIA GPU as a `Device`: PyCUDA for memory, streams and launches, cuda-bindings for graphs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...kernels.calls import KernelCall
from ...kernels.launcher import GpuUnavailableError, KernelLauncher, pycuda_driver
from ..errors import BackendUnavailableError
from .device import DTYPES, Buffer, DeviceMemoryError


class CudaDevice:
    """GPU `index` with its primary context, which other CUDA libraries of the process share.

    BackendUnavailableError where there is no such GPU, it is too old, or PyCUDA or cuda-bindings is missing. Kernels
    are cached under `cache`. Use it from the thread that made it, and `close` it there.
    """

    def __init__(self, index: int = 0, cache: Path | None = None) -> None:
        try:
            self._driver = pycuda_driver()
            if index >= self._driver.Device.count():
                raise GpuUnavailableError(f"cuda:{index} is not here; GPUs: {self._driver.Device.count()}")
            self._gpu = self._driver.Device(index)
            capability = self._gpu.compute_capability()
            self._graphs = import_module("cuda.bindings.driver")
            self._context = self._gpu.retain_primary_context()
            self._context.push()
            self._launcher = KernelLauncher(capability, cache)
        except GpuUnavailableError as error:
            raise BackendUnavailableError(str(error)) from error
        except ModuleNotFoundError as error:
            raise BackendUnavailableError('cuda-bindings is missing: pip install "sbldm-engine[gpu]"') from error
        self.name = f"{self._gpu.name()} (sm_{capability[0]}{capability[1]})"

    def close(self) -> None:
        """Leaves the context."""
        self._context.pop()

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        buffer = Buffer(0, shape, dtype)
        try:
            memory = self._driver.mem_alloc(max(1, buffer.nbytes))
        except self._driver.MemoryError as error:
            free, total = self._driver.mem_get_info()
            raise DeviceMemoryError(
                f"{self.name} has no room for {buffer.nbytes / 2**20:.0f} MiB ({free / 2**20:.0f} of "
                f"{total / 2**20:.0f} MiB free)"
            ) from error
        return Buffer(int(memory), shape, dtype, memory)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        return self._driver.pagelocked_empty(shape, DTYPES[dtype])

    def stream(self) -> Any:
        return self._driver.Stream()

    def upload(self, buffer: Buffer, values: NDArray[Any], stream: Any) -> None:
        self._driver.memcpy_htod_async(buffer.address, values, stream)

    def download(self, buffer: Buffer, values: NDArray[Any], stream: Any) -> None:
        self._driver.memcpy_dtoh_async(values, buffer.address, stream)

    def launch(self, call: KernelCall, stream: Any) -> None:
        self._launcher.launch(call, stream)

    def record(self, stream: Any) -> Any:
        return self._driver.Event().record(stream)

    def wait(self, stream: Any, event: Any) -> None:
        stream.wait_for_event(event)

    def synchronize(self, event: Any) -> None:
        event.synchronize()

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """The executable graph of what `work` queues; RuntimeError names the call that failed."""
        mode = self._graphs.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._checked("cuStreamBeginCapture", stream.handle, mode)
        try:
            work()
        finally:
            graph = self._checked("cuStreamEndCapture", stream.handle)
        executable = self._checked("cuGraphInstantiate", graph, 0)
        self._checked("cuGraphDestroy", graph)
        return executable

    def replay(self, graph: Any, stream: Any) -> None:
        self._checked("cuGraphLaunch", graph, stream.handle)

    def _checked(self, function: str, *arguments: Any) -> Any:
        """The result of a cuda-bindings call, which returns (status, result)."""
        status, *result = getattr(self._graphs, function)(*arguments)
        if status != self._graphs.CUresult.CUDA_SUCCESS:
            raise RuntimeError(f"{function}: {status.name}")
        return result[0] if result else None
