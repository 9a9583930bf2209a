"""The TensorRT backend over a stand-in GPU whose engines compute with ONNX Runtime; and the adapter's types."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.benchmarks import device_calls
from sbldm.engine.backends.choose import choose_backend
from sbldm.engine.backends.onnxruntime import OnnxRuntimeBackend
from sbldm.engine.backends.tensorrt import engines as engines_module
from sbldm.engine.backends.tensorrt.backend import TensorRtBackend
from sbldm.engine.backends.tensorrt.cache import EngineCache
from sbldm.engine.backends.tensorrt.engines import EngineSet, Target
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.cuda.batch_loop import CudaLoop
from sbldm.engine.cuda.device import Buffer
from sbldm.engine.cuda.device_networks import TensorRtNetwork
from sbldm.engine.errors import BackendUnavailableError, InvalidInputError
from sbldm.engine.run.open_loop import open_loop
from sbldm.engine.run.request import GenerateRequest
from sbldm.engine.sampling.types import SampleRequest

from tests.support.host_device import HostDevice, HostStream

ROOT = Path(__file__).parents[3]


class StandInDevice:
    """Host memory under addresses; queued work is done at once."""

    name = model = "stand-in"

    def current(self) -> Any:
        return nullcontext()

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        values = np.full(shape, -1, dtype)
        return Buffer(values.ctypes.data, shape, dtype, values)

    def pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        return np.empty(shape, dtype)

    def stream(self) -> Any:
        return SimpleNamespace(handle=0)

    def upload(self, buffer: Buffer, values: NDArray[Any], stream: Any) -> None:
        assert values.shape == buffer.shape
        ctypes.memmove(buffer.address, values.ctypes.data, values.nbytes)

    def download(self, buffer: Buffer, values: NDArray[Any], stream: Any) -> None:
        ctypes.memmove(values.ctypes.data, buffer.address, values.nbytes)

    def record(self, stream: Any) -> Any:
        return None

    def synchronize(self, event: Any) -> None:
        pass


class StandInContext:
    """An execution context that computes with ONNX Runtime and refuses another batch than its engine's.

    `spoil` is applied to what it computes.
    """

    def __init__(self, bundle: Bundle, component: str, batch: int, spoil: Any) -> None:
        spec = bundle.manifest.components[component]
        self.backend, self.component, self.batch, self.spec = (
            OnnxRuntimeBackend(bundle, "cpu", 1),
            component,
            batch,
            spec,
        )
        self.spoil = spoil
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        names = [tensor.name for tensor in (*spec.inputs, *spec.outputs)]
        self.engine = SimpleNamespace(num_io_tensors=len(names), get_tensor_name=names.__getitem__)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[0] == self.batch

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, _stream: int) -> bool:
        inputs: dict[str, NDArray[Any]] = {}
        for tensor in self.spec.inputs:
            inputs[tensor.name] = np.empty(self.shapes[tensor.name], tensor.dtype)
            ctypes.memmove(inputs[tensor.name].ctypes.data, self.addresses[tensor.name], inputs[tensor.name].nbytes)
        for name, values in self.backend.run(self.component, inputs).items():
            made = np.ascontiguousarray(self.spoil(values))
            ctypes.memmove(self.addresses[name], made.ctypes.data, made.nbytes)
        return True


class StandInRuntime:
    """Loads the bytes `component batch` as an engine."""

    def __init__(self, bundle: Bundle, spoil: Any) -> None:
        self.bundle, self.spoil = bundle, spoil
        self.opened: list[tuple[str, int]] = []

    def deserialize_cuda_engine(self, blob: bytes) -> Any:
        component, batch = blob.decode().split()
        self.opened.append((component, int(batch)))
        made = StandInContext(self.bundle, component, int(batch), self.spoil)
        return SimpleNamespace(create_execution_context=lambda: made)


def open_backend(
    bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch, device: Any = None, spoil: Any = lambda values: values
) -> TensorRtBackend:
    runtime = StandInRuntime(bundle, spoil)
    flavour: Any = SimpleNamespace(name="tensorrt", version="10.13", cross_builds=False, api=None)
    monkeypatch.setattr(engines_module, "make_runtime", lambda _flavour: (runtime, []))
    monkeypatch.setattr(
        engines_module,
        "build_engine",
        lambda _flavour, request, _known: (f"{request.onnx.stem} {request.batch}".encode(), {"build_seconds": 1.0}),
    )
    target = Target("90", "13000", present=True, gpu_model="NVIDIA H100 80GB HBM3")
    engines: Any = EngineSet(bundle, flavour, target, EngineCache(cache))
    engines.opened = runtime.opened
    return TensorRtBackend(bundle, engines, device or StandInDevice(), index=1, batch=2)


def inputs_of(bundle: Bundle, component: str, size: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(size)
    return {
        tensor.name: random.uniform(0, 5, (size, *map(int, tensor.shape[1:]))).astype(tensor.dtype)
        for tensor in bundle.manifest.components[component].inputs
    }


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_any_batch_runs_in_pieces_of_the_engines(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    backend = open_backend(tiny_bundle, tmp_path, monkeypatch)
    reference = OnnxRuntimeBackend(tiny_bundle, "cpu", 1)
    for component in tiny_bundle.manifest.components:
        inputs = inputs_of(tiny_bundle, component, size)
        expected = reference.run(component, inputs)
        got = backend.run(component, inputs)
        for name, values in expected.items():
            np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fault", ["missing", "shape", "empty"])
def test_wrong_inputs_are_refused_by_name(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    backend, inputs = open_backend(tiny_bundle, tmp_path, monkeypatch), inputs_of(tiny_bundle, "denoiser", 2)
    if fault == "missing":
        del inputs["condition"]
    elif fault == "shape":
        inputs["condition"] = inputs["condition"][:, :-1]
    else:
        inputs = {name: values[:0] for name, values in inputs.items()}
    with pytest.raises(InvalidInputError, match=r"denoiser: input (condition|sample) has shape"):
        backend.run("denoiser", inputs)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda values: values + 1e-3, "RMS error"),
        (lambda values: np.where(values > 0, np.nan, values), "% of it is not finite"),
        (lambda values: values[::-1], "RMS error"),  # rows swapped
        (np.zeros_like, "RMS error 1."),
    ],
)
def test_an_engine_that_computes_something_else_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, told: str
) -> None:
    """When it was built, and ever after; a good one is checked once."""
    inputs = inputs_of(tiny_bundle, "denoiser", 2)
    bad = open_backend(tiny_bundle, tmp_path, monkeypatch, spoil=spoil)
    with pytest.raises(BackendUnavailableError, match="computes denoiser wrongly on this GPU in fp32") as refused:
        bad.run("denoiser", inputs)
    assert told in str(refused.value)
    good = open_backend(tiny_bundle, tmp_path, monkeypatch)
    with pytest.raises(BackendUnavailableError, match="computes denoiser wrongly"):
        good.run("denoiser", inputs)
    good.engines.prepare("denoiser", 2, rebuild=True)
    good.run("denoiser", inputs)
    figures = good.engines.prepare("denoiser", 2).figures
    assert figures["check_rms"] < figures["check_limit"] == 1e-4
    assert figures["check_faults"] == []
    monkeypatch.setattr(engines_module, "check_faults", None)
    open_backend(tiny_bundle, tmp_path, monkeypatch).run("denoiser", inputs)


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")
def test_generation_runs_its_loop_on_the_engines(
    tiny_bundle: Bundle, tmp_path: Path, kernel_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a run: one graph of engines for this batch and guidance, the decoder's slices in chunks."""
    device = HostDevice(kernel_folder)
    monkeypatch.setattr(HostStream, "handle", 0, raising=False)
    monkeypatch.setattr(TensorRtNetwork, "enqueue", on_queue(device, TensorRtNetwork.enqueue))
    monkeypatch.setattr("sbldm.engine.cuda.shapes.DECODER_SLICES", 4)
    backend = open_backend(tiny_bundle, tmp_path, monkeypatch, device)
    assert (backend.device, backend.precision) == ("cuda:1", "fp32")
    options = GenerateRequest(bundle=tiny_bundle, count=2, steps=2, guidance=2.0).options()
    sampler = open_loop(tiny_bundle, backend, options, 2)
    assert isinstance(sampler, CudaLoop)
    assert sampler.kind == "graph"
    engines: Any = backend.engines
    assert engines.opened == [("denoiser", 4), ("aggregator", 1), ("decoder", 4), ("refiner", 1)]
    requests = [SampleRequest(number, 0, np.full(12, 0.1 * number, np.float32)) for number in range(2)]
    on_cpu = open_loop(tiny_bundle, OnnxRuntimeBackend(tiny_bundle, "cpu", 1), options, 2)
    for ours, theirs in zip(sampler.start(requests)(), on_cpu.start(requests)(), strict=True):
        np.testing.assert_array_equal(ours.label, theirs.label)
        assert np.abs(ours.image.astype(int) - theirs.image).max() <= 1


def test_bench_times_the_engines_that_the_backend_runs(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each built once, its inputs and outputs on the device, between two events of its stream."""
    backend = open_backend(tiny_bundle, tmp_path, monkeypatch)
    streams: list[Any] = []
    monkeypatch.setattr(device_calls, "milliseconds", lambda stream, work: streams.append(stream) or work() or 2.0)
    for component in ("denoiser", "decoder", "refiner"):
        recorded = inputs_of(tiny_bundle, component, 9)
        backend.run(component, recorded)
        inputs = device_calls.device_inputs(tiny_bundle, component, recorded, batch=2)
        assert device_calls.device_call(tiny_bundle, backend.loops, component, inputs)().seconds == 0.002
    engines: Any = backend.engines
    rows = {"denoiser": 2, "decoder": 8, "refiner": 1}
    assert engines.opened == [(name, count) for name, count in rows.items() for _ in ("run", "timed")]
    assert len({id(stream) for stream in streams}) == 3


def test_an_engine_that_cannot_be_captured_is_launched(tiny_bundle: Bundle) -> None:
    context: Any = StandInContext(tiny_bundle, "denoiser", 1, None)
    context.is_stream_capturable = lambda _stream: False
    network = TensorRtNetwork(context, [])
    network.ask_capturable(SimpleNamespace(handle=0))
    assert network.launching.kind == "launches"
    assert "cannot be captured" in network.launching.reason


def on_queue(device: HostDevice, enqueue: Any) -> Any:
    """`enqueue` as work that a graph can hold."""

    def queued(component: Any, inputs: Any, outputs: Any, stream: Any) -> None:
        device.queue("engine", stream, lambda: enqueue(component, inputs, outputs, stream))

    return queued


def test_the_runs_batch_reaches_the_engines(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("sbldm.engine.backends.tensorrt.backend.open_tensorrt", lambda *given: asked.append(given))
    choose_backend(tiny_bundle, "tensorrt", "cuda:1", batch=8)
    assert asked[0] == (tiny_bundle, 1, 8, "fp32")


@pytest.mark.slow
def test_the_adapter_fits_the_type_stubs_of_tensorrt() -> None:
    if importlib.util.find_spec("tensorrt_stubs") is None:
        pytest.skip("pip install --no-deps tensorrt-stubs")
    checker = shutil.which("basedpyright")
    if checker is None:
        pytest.skip("basedpyright is not installed")
    files = [
        "engine/backends/tensorrt/build.py",
        "engine/backends/tensorrt/engines.py",
        "engine/backends/tensorrt/backend.py",
    ]
    result = subprocess.run([checker, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
