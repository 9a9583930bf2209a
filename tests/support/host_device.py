"""The CPU as a `Device`: the CUDA kernels behind the g++ shim, streams that queue until a graph or an event asks.

It is how the loop and the kernels are tested without a GPU; it is exact, not fast.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from ctypes import memmove
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sbldm.engine.cuda.device import Buffer, DeviceNetwork, Launching
from sbldm.engine.errors import DeviceMemoryError
from sbldm.kernels.calls import THREADS, KernelCall

from tests.support.cpu_launcher import CpuLauncher


class HostStream:
    """Work is done at once, or recorded while a graph is captured."""

    def __init__(self) -> None:
        self.recording: list[Callable[[], None]] | None = None

    def put(self, work: Callable[[], None]) -> None:
        """Does the work, or records it."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)


class HostDevice:
    """`folder` receives the compiled kernels; `memory` bytes can be held at a time; `log` lists what was done."""

    name = model = "host"

    def __init__(self, folder: Path, memory: int = 2**31) -> None:
        self._launcher = CpuLauncher(folder)
        self._left, self._total = memory, memory
        self.log: list[str] = []

    def current(self) -> nullcontext[None]:
        """Nothing to do."""
        return nullcontext()

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Memory filled with 0xFF, which reads as NaN."""
        values = np.empty(shape, dtype)
        if values.nbytes > self._left:
            raise DeviceMemoryError(f"no room for {values.nbytes} bytes on the host device, {self._left} are left")
        self._left -= values.nbytes
        weakref.finalize(values, self._give_back, values.nbytes)
        values.view(np.uint8).fill(0xFF) if values.ndim else values.fill(-1)
        return Buffer(values.ctypes.data, shape, dtype, values)

    def _give_back(self, size: int) -> None:
        self._left += size

    def memory(self) -> tuple[int, int]:
        return self._left, self._total

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        return np.empty(shape, dtype)

    def stream(self) -> HostStream:
        return HostStream()

    def upload(self, buffer: Buffer, values: NDArray[Any], stream: HostStream) -> None:
        _check_copy(buffer, values)
        self.queue("upload", stream, lambda: memmove(buffer.address, values.ctypes.data, buffer.nbytes))

    def download(self, buffer: Buffer, values: NDArray[Any], stream: HostStream) -> None:
        _check_copy(buffer, values)
        self.queue("download", stream, lambda: memmove(values.ctypes.data, buffer.address, buffer.nbytes))

    def launch(self, call: KernelCall, stream: HostStream) -> None:
        self.queue(call.entry, stream, lambda: self._launcher.launch(call.entry, call.grid, THREADS, call.parameters))

    def record(self, stream: HostStream) -> str:
        return "event"

    def wait(self, stream: HostStream, event: str) -> None:
        self.log.append("wait")

    def synchronize(self, event: str) -> None:
        self.log.append("synchronize")

    def capture(self, stream: HostStream, work: Callable[[], None]) -> list[Callable[[], None]]:
        self.log.append("capture")
        stream.recording = recording = []
        try:
            work()
        finally:
            stream.recording = None
        return recording

    def replay(self, graph: list[Callable[[], None]], stream: HostStream) -> None:
        self.log.append("replay")
        for work in graph:
            work()

    def queue(self, what: str, stream: HostStream, work: Callable[[], object]) -> None:
        """Does the work and logs `what`, or records both while a graph is captured."""

        def logged() -> None:
            self.log.append(what)
            work()

        stream.put(logged)


class HostNetwork:
    """Any network on a `HostDevice`: its runs can be captured, as work on a GPU stream is."""

    launching = Launching("graph", "")

    def __init__(self, device: HostDevice, name: str, network: DeviceNetwork) -> None:
        self._device = device
        self._name = name
        self._network = network

    def enqueue(self, inputs: dict[str, Buffer], outputs: dict[str, Buffer], stream: HostStream) -> None:
        self._device.queue(self._name, stream, lambda: self._network.enqueue(inputs, outputs, stream))


def _check_copy(buffer: Buffer, values: NDArray[Any]) -> None:
    if (values.shape, values.dtype) != (buffer.shape, np.dtype(buffer.dtype)) or not values.flags.c_contiguous:
        raise ValueError(f"host array {values.dtype}{values.shape} does not fit buffer {buffer.dtype}{buffer.shape}")
