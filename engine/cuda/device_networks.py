"""Networks on device buffers: ONNX Runtime through IO binding, TensorRT through an execution context."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BackendUnavailableError, DeviceMemoryError
from ..memory_errors import says_out_of_memory
from ..onnx_sessions import cuda_options, import_onnxruntime, run_errors, session_options
from .device import Buffer

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntimeNetwork:
    """An ONNX Runtime session bound to buffers by address, on the device that the buffers are on.

    `device_type` is "cuda" or "cpu". The session has to queue its work on the stream that `enqueue` is called with (see
    `open_cuda_session`); it does not wait for the device.
    """

    def __init__(self, session: onnxruntime.InferenceSession, device_type: str, device_id: int = 0) -> None:
        import onnxruntime

        self._session = session
        self._known = frozenset(node.name for node in session.get_inputs())
        self._device = (device_type, device_id)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(self, inputs: dict[str, Buffer], outputs: dict[str, Buffer], stream: Any) -> None:
        """Binds and runs; inputs that the graph does not have are left out.

        DeviceMemoryError where there is no room for the run, BackendUnavailableError where ONNX Runtime refuses it.
        """
        binding = self._session.io_binding()
        for name, buffer in inputs.items():
            if name in self._known:
                binding.bind_input(name, *self._device, np.dtype(buffer.dtype), buffer.shape, buffer.address)
        for name, buffer in outputs.items():
            binding.bind_output(name, *self._device, np.dtype(buffer.dtype), buffer.shape, buffer.address)
        with run_errors("a network on the device"):
            self._session.run_with_iobinding(binding, self._options)


def open_cuda_session(path: Path, stream_handle: int, device_id: int = 0) -> onnxruntime.InferenceSession:
    """An ONNX Runtime CUDA session whose work goes to an existing stream (a CUstream handle).

    BackendUnavailableError where CUDA is missing, and where ONNX Runtime would quietly go on with the CPU.
    """
    onnxruntime = import_onnxruntime()
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise BackendUnavailableError(
            'this ONNX Runtime has no CUDA: pip uninstall onnxruntime, then pip install "sbldm-engine[gpu]"'
        )
    options = {**cuda_options(device_id), "user_compute_stream": str(stream_handle)}
    with run_errors(path.name):
        session = onnxruntime.InferenceSession(
            str(path), session_options(1), providers=[("CUDAExecutionProvider", options)]
        )
    if session.get_providers()[0] != "CUDAExecutionProvider":
        raise BackendUnavailableError(
            f"ONNX Runtime fell back to the CPU for {path.name}; is CUDA 13 with cuDNN 9 here?"
        )
    return session


class TensorRtNetwork:
    """A TensorRT execution context of either flavour; batch axes take the buffers' shapes.

    `problems` is where the runtime's logger puts its error messages.
    """

    def __init__(self, context: Any, problems: list[str]) -> None:
        self._context, self._problems = context, problems
        engine = context.engine
        self._known = frozenset(engine.get_tensor_name(index) for index in range(engine.num_io_tensors))

    def enqueue(self, inputs: dict[str, Buffer], outputs: dict[str, Buffer], stream: Any) -> None:
        """Sets shapes and addresses and queues the run.

        DeviceMemoryError where there is no room for the run, BackendUnavailableError where TensorRT refuses it.
        """
        for name, buffer in inputs.items():
            if name in self._known and not self._context.set_input_shape(name, buffer.shape):
                raise BackendUnavailableError(f"TensorRT: {name} {buffer.shape} is outside the engine's batch profile")
        for name, buffer in {**inputs, **outputs}.items():
            if name in self._known:
                self._context.set_tensor_address(name, buffer.address)
        if not self._context.execute_async_v3(int(stream.handle)):
            said = "; ".join(self._problems[-3:]) or "it gives no reason"
            kind = DeviceMemoryError if says_out_of_memory(said) else BackendUnavailableError
            raise kind(f"TensorRT refused to queue a run: {said}")
