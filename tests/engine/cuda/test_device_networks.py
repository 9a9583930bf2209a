"""Networks on device buffers: what they bind, and what they say when the library below refuses or finds no memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import pytest
from sbldm.engine.cuda.device import Buffer, GraphError, Launching
from sbldm.engine.cuda.device_networks import OnnxRuntimeNetwork, TensorRtNetwork
from sbldm.engine.errors import BackendUnavailableError, DeviceMemoryError
from sbldm.engine.memory_errors import says_out_of_memory
from sbldm.engine.onnx_sessions import run_errors

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


@dataclass
class FakeContext:
    """TensorRT's execution context as far as `TensorRtNetwork` uses it."""

    fits: bool = True
    runs: bool = True

    def __post_init__(self) -> None:
        self.engine = self
        self.names = ("sample", "prediction")
        self.num_io_tensors = 2
        self.addresses: dict[str, int] = {}

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return self.fits

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address % 16 == 0

    def execute_async_v3(self, handle: int) -> bool:
        return self.runs


class FakeStream:
    handle = 7


def test_tensorrt_component_binds_what_the_engine_knows() -> None:
    buffers = {"sample": Buffer(16, (2, 3), "float32"), "timestep": Buffer(32, (2,), "float32")}
    outputs = {"prediction": Buffer(48, (2, 3), "float32")}
    context = FakeContext()
    TensorRtNetwork(context, []).enqueue(buffers, outputs, FakeStream())
    assert context.addresses == {"sample": 16, "prediction": 48}
    with pytest.raises(BackendUnavailableError, match=r"sample \(2, 3\) is not the shape of the engine"):
        TensorRtNetwork(FakeContext(fits=False), []).enqueue(buffers, outputs, FakeStream())
    astray = {"sample": Buffer(24, (2, 3), "float32")}
    with pytest.raises(BackendUnavailableError, match="sample cannot lie at 0x18"):
        TensorRtNetwork(FakeContext(), []).enqueue(astray, outputs, FakeStream())
    problems = ["[cask] a layer has no kernel"]
    stuck = TensorRtNetwork(FakeContext(runs=False), problems)
    with pytest.raises(BackendUnavailableError, match=r"refused to queue a run: .* no kernel") as refused:
        stuck.enqueue(buffers, outputs, FakeStream())
    assert not isinstance(refused.value, MemoryError)
    problems.append("[defaultAllocator.cpp] cudaMalloc failed: out of memory")
    with pytest.raises(DeviceMemoryError, match="out of memory"):
        stuck.enqueue(buffers, outputs, FakeStream())


HUNGRY = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n] sample) => (float[m] prediction) {
        size = Constant<value_ints=[17592186044416]>()
        prediction = Expand(sample, size)
    }"""


def test_a_failed_allocation_of_onnx_runtime_is_a_memory_error() -> None:
    """A real one: the graph asks for 64 TiB."""
    model = onnx.parser.parse_model(HUNGRY)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values, out = np.zeros(1, np.float32), np.zeros(4, np.float32)
    component = OnnxRuntimeNetwork(session, "cpu")
    inputs = {"sample": Buffer(values.ctypes.data, (1,), "float32", values)}
    with pytest.raises(BackendUnavailableError, match="Got invalid dimensions") as refused:
        component.enqueue(inputs, {"prediction": Buffer(out.ctypes.data, (4,), "float32", out)}, None)
    assert not isinstance(refused.value, MemoryError)
    binding = session.io_binding()
    binding.bind_ortvalue_input("sample", ort.OrtValue.ortvalue_from_numpy(values))
    binding.bind_output("prediction")
    with pytest.raises(DeviceMemoryError, match="Failed to allocate memory"), run_errors("hungry"):
        session.run_with_iobinding(binding)
    with pytest.raises(MemoryError, match="Failed to allocate memory") as failed, run_errors("hungry"):
        session.run(None, {"sample": values})
    assert isinstance(failed.value, DeviceMemoryError)
    assert failed.value.exit_code == 4


@pytest.mark.parametrize(
    ("message", "memory"),
    [
        ("bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 17179869184", True),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, size);", True),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", True),
        ("std::bad_alloc", True),
        ("CUDA failure 209: no kernel image is available for execution on the device", False),
        ("Non-zero status code returned while running Conv node", False),
    ],
)
def test_words_for_a_lack_of_memory(message: str, memory: bool) -> None:
    assert says_out_of_memory(message) is memory


SCRATCH = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n] sample) => (float[n] prediction) {
        size = Constant<value_ints=[17592186044416]>()
        zero = Constant<value_float=0.0>()
        scratch = Expand(zero, size)
        none = ReduceMax<keepdims=0>(scratch)
        prediction = Add(sample, none)
    }"""


def test_words_of_a_failed_allocation_are_believed_where_the_driver_has_no_memory_either() -> None:
    """ONNX Runtime says the same whatever refused it: here really 64 TiB."""
    session = ort.InferenceSession(
        onnx.parser.parse_model(SCRATCH).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values, out = np.zeros(1, np.float32), np.zeros(1, np.float32)
    inputs = {"sample": Buffer(values.ctypes.data, (1,), "float32", values)}
    outputs = {"prediction": Buffer(out.ctypes.data, (1,), "float32", out)}
    short = OnnxRuntimeNetwork(session, "cpu", free_bytes=lambda: 2**40)
    with pytest.raises(DeviceMemoryError, match="Failed to allocate memory"):
        short.enqueue(inputs, outputs, None)
    refused = OnnxRuntimeNetwork(session, "cpu", free_bytes=lambda: 2**50)
    with pytest.raises(BackendUnavailableError, match="although the GPU has") as told:
        refused.enqueue(inputs, outputs, None)
    assert not isinstance(told.value, MemoryError)


class Binding:
    def bind_input(self, *_: object) -> None: ...

    bind_output = bind_input


class Recorder:
    """A session that notes under which graph id it was run."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def get_inputs(self) -> list[object]:
        return []

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, _binding: Binding, options: object) -> None:
        self.ids.append(options.get_run_config_entry("gpu_graph_id"))  # pyright: ignore[reportAttributeAccessIssue]


def test_each_set_of_buffers_has_a_graph_of_its_own() -> None:
    """A graph holds addresses: replayed for other buffers it would read and write the old ones."""
    buffers = [{"sample": Buffer(address, (2,), "float32")} for address in (16, 32, 16)]
    for kind, ids in (("graphs", ["1", "2", "1"]), ("launches", ["-1", "-1", "-1"])):
        session = Recorder()
        network = OnnxRuntimeNetwork(session, "cpu", launching=Launching(kind, ""))  # pyright: ignore
        for inputs in buffers:
            network.enqueue(inputs, {}, None)
        assert session.ids == ids


def test_a_graph_of_onnx_runtime_that_fails_is_no_lack_of_the_backend() -> None:
    """The same runs are launched without it then (`DeviceLoops.open`)."""

    class Refusing(Recorder):
        def run_with_iobinding(self, _binding: Binding, options: object) -> None:
            raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")

    for kind, error in (("graphs", GraphError), ("launches", BackendUnavailableError)):
        network = OnnxRuntimeNetwork(Refusing(), "cpu", launching=Launching(kind, ""))  # pyright: ignore
        with pytest.raises(BackendUnavailableError, match="not permitted when stream is capturing") as told:
            network.enqueue({}, {}, None)
        assert type(told.value) is error


def test_no_gpu_is_an_unavailable_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    from sbldm.engine.cuda.gpu import CudaDevice
    from sbldm.kernels.launcher import GpuUnavailableError

    def missing() -> None:
        raise GpuUnavailableError("the NVIDIA driver sees no GPU")

    monkeypatch.setattr("sbldm.engine.cuda.gpu.cuda_driver", missing)
    with pytest.raises(BackendUnavailableError, match="sees no GPU") as refused:
        CudaDevice()
    assert refused.value.exit_code == 4


def test_a_missing_binding_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from sbldm.kernels.launcher import GpuUnavailableError, cuda_driver

    for binding in ("pycuda.driver", "cuda.bindings.driver"):
        monkeypatch.setitem(sys.modules, binding, None)
    with pytest.raises(GpuUnavailableError, match="pip install"):
        cuda_driver()
