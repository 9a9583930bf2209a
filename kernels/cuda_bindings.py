"""The CUDA driver through cuda-bindings, under the names of `pycuda.driver`, for where PyCUDA is not."""

from __future__ import annotations

import ctypes
import threading
import weakref
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Error(RuntimeError):
    """A call of the driver failed; the message names it and what the driver said."""


class MemoryError(Error):
    """The driver found no memory."""


def _driver() -> Any:
    return import_module("cuda.bindings.driver")


def _call(function: str, *arguments: Any) -> Any:
    """The result of a driver call; several results as a tuple, none as None."""
    driver = _driver()
    try:
        status, *results = getattr(driver, function)(*arguments)
    except RuntimeError as error:  # cuda-bindings itself: no libcuda, or one that lacks the function
        raise Error(f"{function}: {error}") from error
    if status != driver.CUresult.CUDA_SUCCESS:
        kind = MemoryError if status == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY else Error
        raise kind(f"{function} failed: {status.name}")
    return results[0] if len(results) == 1 else tuple(results) or None


class _Pushed(threading.local):
    """The contexts that a thread pushed, the current one last."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []


_pushed = _Pushed()


def _later(owner: object, function: str, *arguments: Any) -> None:
    """Calls the driver when `owner` goes, in whatever thread, within the context that is current now and goes later.

    Unless the process ends first: the driver may be gone by then.
    """
    context = _pushed.contexts[-1] if _pushed.contexts else None
    weakref.finalize(owner, _within, context, function, *arguments).atexit = False


def _within(context: Context | None, function: str, *arguments: Any) -> None:
    """A call of the driver, whose outcome nobody waits for, with a context current."""
    call = getattr(_driver(), function)
    if context is None:
        call(*arguments)
        return
    context.push()
    try:
        call(*arguments)
    finally:
        context.pop()


def init() -> None:
    """Starts the driver; Error where it does not load or start."""
    _call("cuInit", 0)


def get_driver_version() -> int:
    """As the driver says it, e.g. 13000."""
    return int(_call("cuDriverGetVersion"))


class Context:
    """A device's primary context."""

    def __init__(self, device: Any) -> None:
        self._context = _call("cuDevicePrimaryCtxRetain", device)
        weakref.finalize(self, _within, None, "cuDevicePrimaryCtxRelease", device).atexit = False

    def push(self) -> None:
        """Makes it the thread's."""
        _call("cuCtxPushCurrent", self._context)
        _pushed.contexts.append(self)

    @staticmethod
    def pop() -> None:
        """Gives the thread the one before."""
        _call("cuCtxPopCurrent")
        _pushed.contexts.pop()


class Device:
    """GPU `index`."""

    def __init__(self, index: int) -> None:
        self._device = _call("cuDeviceGet", index)

    @staticmethod
    def count() -> int:
        """GPUs that this process may use."""
        return int(_call("cuDeviceGetCount"))

    def name(self) -> str:
        """The model, e.g. `NVIDIA H100 80GB HBM3`."""
        return _call("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode()

    def compute_capability(self) -> tuple[int, int]:
        """(major, minor)."""
        attributes = _driver().CUdevice_attribute
        major, minor = (
            int(_call("cuDeviceGetAttribute", attribute, self._device))
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        return major, minor

    def pci_bus_id(self) -> str:
        """Where it is plugged in, e.g. `0000:41:00.0`, by which other libraries find the same GPU."""
        return _call("cuDeviceGetPCIBusId", 13, self._device).split(b"\0")[0].decode()

    def total_memory(self) -> int:
        """Bytes."""
        return int(_call("cuDeviceTotalMem", self._device))

    def retain_primary_context(self) -> Context:
        """The context that other CUDA libraries of the process use."""
        return Context(self._device)


class Stream:
    """A queue of work; `flags` as of CUstream_flags."""

    def __init__(self, flags: int = 0) -> None:
        self._stream = _call("cuStreamCreate", flags)
        self.handle = int(self._stream)
        _later(self, "cuStreamDestroy", self._stream)

    def wait_for_event(self, event: Event) -> None:
        """Holds later work back until the event is over."""
        _call("cuStreamWaitEvent", self.handle, event.handle, 0)


class Event:
    """A place in a stream, with its time; `flags` as of CUevent_flags."""

    def __init__(self, flags: int = 0) -> None:
        self.handle = _call("cuEventCreate", flags)
        _later(self, "cuEventDestroy", self.handle)

    def record(self, stream: Stream) -> Event:
        """Marks what the stream holds now."""
        _call("cuEventRecord", self.handle, stream.handle)
        return self

    def synchronize(self) -> None:
        """Blocks until it is over."""
        _call("cuEventSynchronize", self.handle)

    def time_since(self, earlier: Event) -> float:
        """Milliseconds."""
        return float(_call("cuEventElapsedTime", earlier.handle, self.handle))


class DeviceAllocation:
    """Device memory that goes with its last reference; its integer is the address."""

    def __init__(self, size: int) -> None:
        self._address = _call("cuMemAlloc", size)
        _later(self, "cuMemFree", self._address)

    def __int__(self) -> int:
        return int(self._address)


def mem_alloc(size: int) -> DeviceAllocation:
    """So many bytes; MemoryError where there is no room."""
    return DeviceAllocation(size)


def mem_get_info() -> tuple[int, int]:
    """(free, total) bytes of the current device."""
    free, total = _call("cuMemGetInfo")
    return int(free), int(total)


def pagelocked_empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """A pinned host array, contents undefined."""
    kind = np.dtype(dtype)
    size = prod(shape) * kind.itemsize
    address = int(_call("cuMemAllocHost", max(1, size)))
    memory = (ctypes.c_char * size).from_address(address)
    _later(memory, "cuMemFreeHost", address)
    return np.frombuffer(memoryview(memory), kind).reshape(shape)


def memcpy_htod_async(address: int, values: NDArray[Any], stream: Stream) -> None:
    """Queues a copy to the device."""
    _call("cuMemcpyHtoDAsync", address, values.ctypes.data, values.nbytes, stream.handle)


def memcpy_dtoh_async(values: NDArray[Any], address: int, stream: Stream) -> None:
    """Queues a copy from the device."""
    _call("cuMemcpyDtoHAsync", values.ctypes.data, address, values.nbytes, stream.handle)


def memcpy_dtod_async(target: int, source: int, size: int, stream: Stream) -> None:
    """Queues a copy within the device."""
    _call("cuMemcpyDtoDAsync", target, source, size, stream.handle)


def memset_d8_async(address: int, value: int, size: int, stream: Stream) -> None:
    """Queues the filling of bytes."""
    _call("cuMemsetD8Async", address, value, size, stream.handle)


class Function:
    """A kernel that takes one struct."""

    def __init__(self, module: Module, entry: str) -> None:
        self._module = module  # keeps the code loaded
        self._function = _call("cuModuleGetFunction", module.handle, entry.encode())

    def prepare(self, formats: list[str]) -> None:
        """Nothing to do: the struct comes as bytes."""

    def prepared_async_call(
        self, grid: tuple[int, ...], block: tuple[int, int, int], stream: Stream, parameters: bytes
    ) -> None:
        """Queues a launch; the driver copies the parameters before it returns."""
        struct = ctypes.create_string_buffer(parameters, len(parameters))
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(struct))
        dimensions = (*grid, *(1,) * (3 - len(grid)), *block)
        _call("cuLaunchKernel", self._function, *dimensions, 0, stream.handle, ctypes.addressof(pointers), 0)


class Module:
    """Loaded code."""

    def __init__(self, code: bytes) -> None:
        self.handle = _call("cuModuleLoadData", code)
        _later(self, "cuModuleUnload", self.handle)

    def get_function(self, entry: str) -> Function:
        """A kernel of it."""
        return Function(self, entry)


def module_from_buffer(code: bytes) -> Module:
    """A cubin, loaded; Error where the driver refuses it."""
    return Module(code)
