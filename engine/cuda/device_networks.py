"""Networks on device buffers: ONNX Runtime through IO binding, TensorRT through an execution context."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BackendUnavailableError, DeviceMemoryError
from ..memory_errors import says_out_of_memory
from ..onnx_sessions import run_errors
from .device import Buffer, GraphError, Launching

if TYPE_CHECKING:
    import onnxruntime

_ASKED = re.compile(r"requested buffer of size (\d+)")  # ONNX Runtime's arena
_NOT_CAPTURED = "-1"  # graph id with which ONNX Runtime runs without a graph


class OnnxRuntimeNetwork:
    """An ONNX Runtime session bound to buffers by address, on the device that the buffers are on.

    Args:
        session: queues its work on the stream that `enqueue` is called with (`cuda_sessions.open_cuda_session`).
        device_type: `cuda` or `cpu`.
        device_id: of the GPU.
        launching: `graphs` where the session captures its runs: one graph for each set of buffers, so that the same few
            must come again and again.
        free_bytes: of the device, as its driver says it, to tell a lack of memory from the arena's words for any
            failed allocation; None takes the words.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        device_type: str,
        device_id: int = 0,
        launching: Launching | None = None,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        self.launching = launching or Launching("launches", "")
        self._session, self._device, self._free_bytes = session, (device_type, device_id), free_bytes
        self._known = frozenset(node.name for node in session.get_inputs())
        self._runs: dict[tuple[tuple[int, tuple[int, ...]], ...], tuple[Any, onnxruntime.RunOptions]] = {}

    def enqueue(self, inputs: dict[str, Buffer], outputs: dict[str, Buffer], stream: Any) -> None:
        """Binds and runs; inputs that the graph does not have are left out.

        DeviceMemoryError where there is no room for the run, BackendUnavailableError where ONNX Runtime refuses it;
        GraphError where the run was to be captured or replayed.
        """
        key = tuple((buffer.address, buffer.shape) for buffer in (*inputs.values(), *outputs.values()))
        if key not in self._runs:
            self._runs[key] = self._bound(inputs, outputs)
        binding, options = self._runs[key]
        try:
            with run_errors("a network on the device"):
                self._session.run_with_iobinding(binding, options)
        except DeviceMemoryError as error:
            self._require_shortage(error)
            raise
        except BackendUnavailableError as error:
            if self.launching.kind != "graphs":
                raise
            raise GraphError(str(error)) from error

    def _bound(self, inputs: dict[str, Buffer], outputs: dict[str, Buffer]) -> tuple[Any, onnxruntime.RunOptions]:
        import onnxruntime

        binding = self._session.io_binding()
        for name, buffer in inputs.items():
            if name in self._known:
                binding.bind_input(name, *self._device, np.dtype(buffer.dtype), buffer.shape, buffer.address)
        for name, buffer in outputs.items():
            binding.bind_output(name, *self._device, np.dtype(buffer.dtype), buffer.shape, buffer.address)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        graph = str(len(self._runs) + 1) if self.launching.kind == "graphs" else _NOT_CAPTURED
        options.add_run_config_entry("gpu_graph_id", graph)
        return binding, options

    def _require_shortage(self, error: DeviceMemoryError) -> None:
        """BackendUnavailableError where the driver has the memory that ONNX Runtime says it did not get."""
        asked = _ASKED.search(str(error))
        if self._free_bytes is None or asked is None:
            return
        free = self._free_bytes()
        if free > int(asked[1]):
            raise BackendUnavailableError(
                f"ONNX Runtime did not get {int(asked[1]) / 2**20:.1f} MiB although the GPU has {free / 2**20:.0f} MiB "
                f"free: an allocation was refused for another reason, and a smaller batch is no help. {error}"
            ) from error


class TensorRtNetwork:
    """A TensorRT execution context of either flavour for one batch size.

    `problems` is where the runtime's logger puts its error messages, `memory` what the context works in, if it is ours.
    """

    def __init__(self, context: Any, problems: list[str], memory: Buffer | None = None) -> None:
        self.launching = Launching("graph", "")
        self._context, self._problems, self._memory = context, problems, memory
        engine = context.engine
        self._known = frozenset(engine.get_tensor_name(index) for index in range(engine.num_io_tensors))

    def ask_capturable(self, stream: Any) -> None:
        """Asks the context whether it lets itself be captured on a stream, where its flavour answers that."""
        ask = getattr(self._context, "is_stream_capturable", None)
        if ask is not None and not ask(int(stream.handle)):
            self.launching = Launching("launches", "TensorRT says that this engine cannot be captured")

    def enqueue(self, inputs: dict[str, Buffer], outputs: dict[str, Buffer], stream: Any) -> None:
        """Sets shapes and addresses and queues the run.

        DeviceMemoryError where there is no room for the run, BackendUnavailableError where TensorRT refuses it.
        """
        for name, buffer in inputs.items():
            if name in self._known and not self._context.set_input_shape(name, buffer.shape):
                raise BackendUnavailableError(f"TensorRT: {name} {buffer.shape} is not the shape of the engine")
        for name, buffer in {**inputs, **outputs}.items():
            if name in self._known and not self._context.set_tensor_address(name, buffer.address):
                raise BackendUnavailableError(f"TensorRT: {name} cannot lie at {buffer.address:#x}")
        if not self._context.execute_async_v3(int(stream.handle)):
            said = "; ".join(self._problems[-3:]) or "it gives no reason"
            kind = DeviceMemoryError if says_out_of_memory(said) else BackendUnavailableError
            raise kind(f"TensorRT refused to queue a run: {said}")
