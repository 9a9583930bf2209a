"""An NVIDIA GPU as a `Device`: PyCUDA or cuda-bindings for memory, streams and launches, cuda-bindings for graphs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.calls import KernelCall
from ...kernels.compile import KernelCompileError
from ...kernels.launcher import GpuUnavailableError, KernelLauncher, cuda_driver
from ..errors import BackendUnavailableError, DeviceMemoryError, SbldmError
from .device import Buffer, GraphError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: what other libraries queue on the default stream cannot break a capture
_ASLEEP = 1 | 2  # CU_EVENT_BLOCKING_SYNC, so that who waits leaves its core to the writers, CU_EVENT_DISABLE_TIMING


class _Graph:
    """An executable graph that goes with its last reference."""

    def __init__(self, executable: Any, destroy: Callable[[Any], object]) -> None:
        self.executable = executable
        weakref.finalize(self, destroy, executable).atexit = False  # the driver may be gone by then


@contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """Memory that were given back in the midst of a capture would break it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class CudaDevice:
    """GPU `index` with its primary context, which other CUDA libraries of the process share.

    BackendUnavailableError where there is no such GPU, it is too old, or cuda-bindings is missing. Kernels
    are cached under `cache`. Threads may take turns; each works within `current`.
    """

    def __init__(self, index: int = 0, cache: Path | None = None) -> None:
        try:
            self._driver = cuda_driver()
            if index >= self._driver.Device.count():
                raise GpuUnavailableError(f"cuda:{index} is not here; GPUs: {self._driver.Device.count()}")
            self._gpu = self._driver.Device(index)
            capability = self._gpu.compute_capability()
            self._graphs = import_module("cuda.bindings.driver")
            self._context = self._gpu.retain_primary_context()
            self._launcher = KernelLauncher(capability, cache)
        except GpuUnavailableError as error:
            raise BackendUnavailableError(str(error)) from error
        except ModuleNotFoundError as error:
            raise BackendUnavailableError('cuda-bindings is missing: pip install "sbldm-engine[gpu]"') from error
        self.model = str(self._gpu.name())
        self.name = f"{self.model} (sm_{capability[0]}{capability[1]})"

    @contextmanager
    def current(self) -> Iterator[None]:
        """The GPU's context on the calling thread; PyCUDA ends a process that leaves one behind."""
        with self._driver_errors():
            self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    @contextmanager
    def _driver_errors(self) -> Iterator[None]:
        """What the driver refuses, or says late of a kernel that failed, as an error of ours."""
        try:
            yield
        except self._driver.MemoryError as error:
            raise DeviceMemoryError(f"{self.name} has no memory left: {error}") from error
        except self._driver.Error as error:
            raise BackendUnavailableError(
                f"{self.name} failed: {error}; a run goes on with --resume, `dmesg` may say more of the GPU"
            ) from error

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        buffer = Buffer(0, shape, dtype)
        try:
            memory = self._driver.mem_alloc(max(1, buffer.nbytes))
        except self._driver.MemoryError as error:
            free, total = self.memory()
            raise DeviceMemoryError(
                f"{self.name} has no room for {buffer.nbytes / 2**20:.0f} MiB ({free / 2**20:.0f} of "
                f"{total / 2**20:.0f} MiB free)"
            ) from error
        return Buffer(int(memory), shape, dtype, memory)

    def memory(self) -> tuple[int, int]:
        with self._driver_errors():
            return self._driver.mem_get_info()

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        try:
            return self._driver.pagelocked_empty(shape, np.dtype(dtype))
        except self._driver.MemoryError as error:
            raise DeviceMemoryError(f"no pinned host memory for an array {shape} of {dtype}") from error

    def stream(self) -> Any:
        with self._driver_errors():
            return self._driver.Stream(_NON_BLOCKING)

    def upload(self, buffer: Buffer, values: NDArray[Any], stream: Any) -> None:
        with self._driver_errors():
            self._driver.memcpy_htod_async(buffer.address, values, stream)

    def download(self, buffer: Buffer, values: NDArray[Any], stream: Any) -> None:
        with self._driver_errors():
            self._driver.memcpy_dtoh_async(values, buffer.address, stream)

    def launch(self, call: KernelCall, stream: Any) -> None:
        """Queues a kernel; BackendUnavailableError, with the compiler's message, where it does not compile or load."""
        try:
            with self._driver_errors():
                self._launcher.launch(call, stream)
        except (KernelCompileError, GpuUnavailableError) as error:
            raise BackendUnavailableError(str(error)) from error

    def record(self, stream: Any) -> Any:
        with self._driver_errors():
            return self._driver.Event(_ASLEEP).record(stream)

    def wait(self, stream: Any, event: Any) -> None:
        with self._driver_errors():
            stream.wait_for_event(event)

    def synchronize(self, event: Any) -> None:
        with self._driver_errors():
            event.synchronize()

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """The executable graph of what `work` queues; GraphError names the call that failed."""
        graph = None
        try:
            with _no_garbage_collected():
                graph = self._captured(stream, work)
            return _Graph(self._checked("cuGraphInstantiate", graph, 0), self._graphs.cuGraphExecDestroy)
        finally:
            if graph is not None:
                self._graphs.cuGraphDestroy(graph)

    def _captured(self, stream: Any, work: Callable[[], None]) -> Any:
        mode = self._graphs.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._checked("cuStreamBeginCapture", stream.handle, mode)
        done = False
        try:
            work()
            done = True
        except DeviceMemoryError:
            raise
        except (SbldmError, self._driver.Error) as error:
            raise GraphError(str(error)) from error
        finally:  # also of an interrupted capture, so that the stream can be used again
            status, graph = self._graphs.cuStreamEndCapture(stream.handle)
            if not done and status == self._graphs.CUresult.CUDA_SUCCESS:
                self._graphs.cuGraphDestroy(graph)
        self._require("cuStreamEndCapture", status)
        return graph

    def replay(self, graph: Any, stream: Any) -> None:
        self._checked("cuGraphLaunch", graph.executable, stream.handle)

    def _checked(self, function: str, *arguments: Any) -> Any:
        """The result of a cuda-bindings call, which returns (status, result)."""
        status, *result = getattr(self._graphs, function)(*arguments)
        self._require(function, status)
        return result[0] if result else None

    def _require(self, function: str, status: Any) -> None:
        if status == self._graphs.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise DeviceMemoryError(f"{self.name}: {function} found no memory")
        if status != self._graphs.CUresult.CUDA_SUCCESS:
            raise GraphError(f"{function}: {status.name}")
