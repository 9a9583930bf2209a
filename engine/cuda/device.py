"""What the GPU loop needs of a device; `gpu.py` gives it a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ...kernels.calls import KernelCall
from ..errors import BackendUnavailableError


class GraphError(BackendUnavailableError):
    """The device does not take work as a graph; the same work can be queued piece by piece."""


@dataclass(frozen=True)
class Buffer:
    """A contiguous array in device memory, or a view of one."""

    address: int
    shape: tuple[int, ...]
    dtype: str  # as NumPy names it
    owner: object = None  # keeps the allocation alive

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def rows(self, start: int, stop: int) -> Buffer:
        """The view of rows start..stop - 1 of axis 0."""
        row = prod(self.shape[1:]) * np.dtype(self.dtype).itemsize
        return replace(self, address=self.address + start * row, shape=(stop - start, *self.shape[1:]))

    def reshaped(self, *shape: int) -> Buffer:
        """The same memory under another shape of as many elements."""
        if prod(shape) != prod(self.shape):
            raise ValueError(f"a buffer of shape {self.shape} cannot be {shape}")
        return replace(self, shape=shape)


class Device(Protocol):
    """Memory, streams, launches and captured graphs. Streams, events and graphs are the device's own objects."""

    name: str
    model: str  # the name under which it is sold; equal ones run each other's engines

    def current(self) -> AbstractContextManager[object]:
        """Makes the device the calling thread's for a block; everything else happens in such a block."""
        ...

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """New memory, contents undefined; DeviceMemoryError where there is no room."""
        ...

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes of the device, as its driver says it now."""
        ...

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Host memory that copies run asynchronously from and to; DeviceMemoryError where there is no room."""
        ...

    def stream(self) -> Any:
        """A new queue of work; work of one stream runs in order."""
        ...

    def upload(self, buffer: Buffer, values: NDArray[Any], stream: Any) -> None:
        """Queues the copy of a contiguous host array of the buffer's shape and type; the array must stay as it is."""
        ...

    def download(self, buffer: Buffer, values: NDArray[Any], stream: Any) -> None:
        """Queues the copy into a contiguous host array of the buffer's shape and type."""
        ...

    def launch(self, call: KernelCall, stream: Any) -> None:
        """Queues a kernel."""
        ...

    def record(self, stream: Any) -> Any:
        """An event that is over when all that the stream holds now is done."""
        ...

    def wait(self, stream: Any, event: Any) -> None:
        """Holds what is queued on the stream from now on back until the event is over."""
        ...

    def synchronize(self, event: Any) -> None:
        """Blocks the host until the event is over."""
        ...

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Records what `work` queues on the stream, without running it, as a graph.

        GraphError where that cannot be captured, DeviceMemoryError where memory runs out.
        """
        ...

    def replay(self, graph: Any, stream: Any) -> None:
        """Queues a captured graph."""
        ...


@dataclass(frozen=True)
class Launching:
    """How a network's runs may be launched: captured in a graph of ours, each replayed from a graph of its runtime's
    own, or one by one; and why not better.
    """

    kind: Literal["graph", "graphs", "launches"]
    reason: str


class DeviceNetwork(Protocol):
    """A network of the bundle whose inputs and outputs are device buffers; floating-point ones are float32."""

    launching: Launching

    def enqueue(self, inputs: dict[str, Buffer], outputs: dict[str, Buffer], stream: Any) -> None:
        """Queues one run."""
        ...
