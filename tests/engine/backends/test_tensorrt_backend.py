"""The TensorRT backend over a stand-in GPU whose engines compute with ONNX Runtime; and the adapter's types."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.backends.choose import choose_backend
from sbldm.engine.backends.onnxruntime import OnnxRuntimeBackend
from sbldm.engine.backends.tensorrt.backend import TensorRtBackend
from sbldm.engine.backends.tensorrt.cache import BatchProfile, EngineCache
from sbldm.engine.backends.tensorrt.engines import EngineSet, OpenEngine, Target
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.cuda.batch_loop import CudaLoop
from sbldm.engine.cuda.device import Buffer
from sbldm.engine.cuda.device_networks import OnnxRuntimeNetwork, TensorRtNetwork
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.run.open_loop import open_loop
from sbldm.engine.run.request import GenerateRequest
from sbldm.engine.sampling.types import SampleRequest

from tests.support.host_device import HostDevice, HostNetwork, HostStream

ROOT = Path(__file__).parents[3]


class StandInDevice:
    """Host memory under addresses; queued work is done at once."""

    name = "stand-in"

    def current(self) -> Any:
        return nullcontext()

    def allocate(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        values = np.full(shape, -1, dtype)
        return Buffer(values.ctypes.data, shape, dtype, values)

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
    """An execution context that computes with ONNX Runtime and refuses what is outside its profile."""

    def __init__(self, bundle: Bundle, component: str, profile: BatchProfile) -> None:
        spec = bundle.manifest.components[component]
        self.backend, self.component, self.profile, self.spec = (
            OnnxRuntimeBackend(bundle, "cpu", 1),
            component,
            profile,
            spec,
        )
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        names = [tensor.name for tensor in (*spec.inputs, *spec.outputs)]
        self.engine = SimpleNamespace(num_io_tensors=len(names), get_tensor_name=names.__getitem__)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return self.profile.minimum <= shape[0] <= self.profile.maximum

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, _stream: int) -> bool:
        inputs: dict[str, NDArray[Any]] = {}
        for tensor in self.spec.inputs:
            inputs[tensor.name] = np.empty(self.shapes[tensor.name], tensor.dtype)
            ctypes.memmove(inputs[tensor.name].ctypes.data, self.addresses[tensor.name], inputs[tensor.name].nbytes)
        for name, values in self.backend.run(self.component, inputs).items():
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(values).ctypes.data, values.nbytes)
        return True


class StandInEngines(EngineSet):
    """Engines without TensorRT."""

    def __init__(self, bundle: Bundle, cache: EngineCache) -> None:
        flavour: Any = SimpleNamespace(name="tensorrt", version="10.13", cross_builds=False)
        super().__init__(bundle, flavour, Target("90", "13000", present=True), cache)
        self.opened: list[tuple[str, str]] = []

    def prepare(self, component: str, profile: BatchProfile, rebuild: bool = False) -> Any:
        return self.cache.get_or_build(self.key(component, profile), lambda: (b"engine", {}), rebuild)

    def open(self, component: str, profile: BatchProfile) -> OpenEngine:
        self.prepare(component, profile)
        self.opened.append((component, str(profile)))
        return OpenEngine(StandInContext(self.bundle, component, profile), [])


def open_backend(bundle: Bundle, cache: Path, fallback: Any = None, device: Any = None) -> TensorRtBackend:
    engines = StandInEngines(bundle, EngineCache(cache))
    return TensorRtBackend(bundle, engines, device or StandInDevice(), index=1, batch=2, fallback=fallback)


def inputs_of(bundle: Bundle, component: str, size: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(size)
    return {
        tensor.name: random.uniform(0, 5, (size, *map(int, tensor.shape[1:]))).astype(tensor.dtype)
        for tensor in bundle.manifest.components[component].inputs
    }


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_batches_beyond_the_profile_run_in_pieces(tiny_bundle: Bundle, tmp_path: Path, size: int) -> None:
    backend, reference = open_backend(tiny_bundle, tmp_path), OnnxRuntimeBackend(tiny_bundle, "cpu", 1)
    for component in tiny_bundle.manifest.components:
        inputs = inputs_of(tiny_bundle, component, size)
        expected = reference.run(component, inputs)
        got = backend.run(component, inputs)
        for name, values in expected.items():
            np.testing.assert_allclose(got[name], values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fault", ["missing", "shape", "empty"])
def test_wrong_inputs_are_refused_by_name(tiny_bundle: Bundle, tmp_path: Path, fault: str) -> None:
    backend, inputs = open_backend(tiny_bundle, tmp_path), inputs_of(tiny_bundle, "denoiser", 2)
    if fault == "missing":
        del inputs["condition"]
    elif fault == "shape":
        inputs["condition"] = inputs["condition"][:, :-1]
    else:
        inputs = {name: values[:0] for name, values in inputs.items()}
    with pytest.raises(InvalidInputError, match=r"denoiser: input (condition|sample) has shape"):
        backend.run("denoiser", inputs)


class Sleepless:
    """ONNX Runtime as the fallback; counts its runs."""

    name, device, precision, threads, version = "onnxruntime", "cuda:0", "fp32", 1, "1.31"

    def __init__(self, bundle: Bundle) -> None:
        self.real, self.runs = OnnxRuntimeBackend(bundle, "cpu", 1), 0

    def run(self, component: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        self.runs += 1
        return self.real.run(component, inputs)


def test_the_slower_backend_is_left_out_and_the_choice_is_kept(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fallback = Sleepless(tiny_bundle)
    times = iter([2.0, 1.0] * 4)  # TensorRT is slower in everything that generation runs
    monkeypatch.setattr("sbldm.engine.backends.tensorrt.backend.median_ms", lambda _call: next(times))
    backend = open_backend(tiny_bundle, tmp_path, fallback)
    assert backend.choices == dict.fromkeys(("denoiser", "aggregator", "decoder", "refiner"), "onnxruntime")
    assert "onnxruntime 1.31 for" in backend.version
    backend.run("aggregator", inputs_of(tiny_bundle, "aggregator", 1))
    assert fallback.runs == 1
    again = open_backend(tiny_bundle, tmp_path, fallback)  # the figures are beside the engines: nothing is timed
    assert again.choices == backend.choices


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")
def test_generation_runs_its_loop_on_the_engines(
    tiny_bundle: Bundle, tmp_path: Path, kernel_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a run: engines for this batch and guidance, the decoder, found to be slower, in ONNX Runtime."""
    device = HostDevice(kernel_folder)
    monkeypatch.setattr(HostStream, "handle", 0, raising=False)
    monkeypatch.setattr(TensorRtNetwork, "enqueue", on_queue(device, TensorRtNetwork.enqueue))
    times = iter([1.0, 2.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0])
    monkeypatch.setattr("sbldm.engine.backends.tensorrt.backend.median_ms", lambda _call: next(times))
    monkeypatch.setattr(
        "sbldm.engine.cuda.networks.open_cuda_session",
        lambda path, handle, index: OnnxRuntimeBackend(tiny_bundle, "cpu", 1).session(path.stem),
    )
    monkeypatch.setattr(
        "sbldm.engine.cuda.networks.OnnxRuntimeNetwork",
        lambda session, kind, index: HostNetwork(device, "decoder", OnnxRuntimeNetwork(session, "cpu", index)),
    )
    backend = open_backend(tiny_bundle, tmp_path, Sleepless(tiny_bundle), device)
    assert backend.device == "cuda:1"
    options = GenerateRequest(bundle=tiny_bundle, count=2, steps=2, guidance=2.0).options()
    sampler = open_loop(tiny_bundle, backend, options, 2)
    assert isinstance(sampler, CudaLoop)
    assert backend.engines.opened == [("denoiser", "1-4-4"), ("aggregator", "1-1-1"), ("refiner", "1-1-1")]
    requests = [SampleRequest(number, 0, np.full(12, 0.1 * number, np.float32)) for number in range(2)]
    on_cpu = open_loop(tiny_bundle, OnnxRuntimeBackend(tiny_bundle, "cpu", 1), options, 2)
    for ours, theirs in zip(sampler.start(requests)(), on_cpu.start(requests)(), strict=True):
        np.testing.assert_array_equal(ours.label, theirs.label)
        assert np.abs(ours.image.astype(int) - theirs.image).max() <= 1


def on_queue(device: HostDevice, enqueue: Any) -> Any:
    """`enqueue` as work that a graph can hold."""

    def queued(component: Any, inputs: Any, outputs: Any, stream: Any) -> None:
        device.queue("engine", stream, lambda: enqueue(component, inputs, outputs, stream))

    return queued


def test_the_runs_batch_reaches_the_engines(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("sbldm.engine.backends.tensorrt.backend.open_tensorrt", lambda *given: asked.append(given))
    choose_backend(tiny_bundle, "tensorrt", "cuda:1", batch=8)
    bundle, index, batch, _ = asked[0]
    assert (bundle, index, batch) == (tiny_bundle, 1, 8)


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
