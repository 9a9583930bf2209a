"""The GPU loop's orchestration on the CPU: the same code, kernels behind the g++ shim, networks in ONNX Runtime."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sbldm.engine.backends.cuda_bundle import open_generator, sampling_plan
from sbldm.engine.backends.cuda_components import OnnxRuntimeComponent, TensorRtComponent, open_cuda_session
from sbldm.engine.backends.cuda_graph import LoopBatch, LoopShape, SamplingLoop, SamplingPlan, fit_batch
from sbldm.engine.backends.cuda_volumes import Finisher, FinishShape, VolumeGenerator
from sbldm.engine.backends.device import Buffer, DeviceMemoryError
from sbldm.engine.backends.host_device import HostComponent, HostDevice
from sbldm.engine.bundle import NoiseSchedule, Sampler, TensorSpec
from sbldm.engine.errors import BackendUnavailableError
from sbldm.engine.loop import SampleRequest, SamplingOptions, VolumeSampler
from sbldm.kernels.assemble import assemble, one_hot
from sbldm.kernels.calls import VolumeShape
from sbldm.kernels.ddim import ddim_coefficients, ddim_step
from sbldm.kernels.dpmpp import dpmpp_2m_coefficients, dpmpp_2m_step
from sbldm.kernels.measure import measure
from sbldm.kernels.noise import DRAWS_PER_ATTEMPT, standard_normal

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")

LATENT = (4, 3, 2, 2)  # channel, depth, height, width
COLUMNS = 2
VOLUME = VolumeShape(modalities=2, classes=4, shape=(4, 4, 3))
TIMESTEPS = (900.0, 500.0, 100.0)
POINTS = ((0.2, 0.98**0.5 * 0.98), (0.6, 0.8), (0.8, 0.6), (1.0, 0.0))
SEED = 2**63 + 5

GRAPHS = {
    "denoiser": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n,c,d,h,w] sample, float[n] timestep, float[n,k] condition, float[n] condition_mask)
        => (float[n,c,d,h,w] prediction) {
            axes = Constant<value_ints=[1]>()
            shape = Constant<value_ints=[-1,1,1,1,1]>()
            mean = ReduceMean<axes=[1], keepdims=0>(condition)
            told = Mul(mean, condition_mask)
            thousand = Constant<value_float=1000.0>()
            time = Div(timestep, thousand)
            sum = Add(told, time)
            shift = Reshape(sum, shape)
            shifted = Add(sample, shift)
            prediction = Tanh(shifted)
        }""",
    "aggregator": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n,c,d,h,w] latent) => (float[n,d,c,h,w] slices) {
            slices = Transpose<perm=[0,2,1,3,4]>(latent)
        }""",
    "decoder": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[s,c,h,w] latent, int64[s] position) => (float[s,m,x,y] image, float[s,l,x,y] label_logits) {
            two = Constant<value_floats=[1.0,1.0,2.0,2.0]>()
            big = Resize<mode="nearest", nearest_mode="floor">(latent, , two)
            starts = Constant<value_ints=[0]>()
            ends = Constant<value_ints=[2]>()
            channel = Constant<value_ints=[1]>()
            part = Slice(big, starts, ends, channel)
            place = Cast<to=1>(position)
            shape = Constant<value_ints=[-1,1,1,1]>()
            tall = Reshape(place, shape)
            tenth = Constant<value_float=0.1>()
            added = Mul(tall, tenth)
            moved = Add(part, added)
            image = Identity(moved)
            label_logits = Identity(big)
        }""",
    "refiner": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n,d,m,x,y] image, float[n,d,l,x,y] label) => (float[n,d,m,x,y] refined) {
            starts = Constant<value_ints=[0]>()
            ends = Constant<value_ints=[2]>()
            channel = Constant<value_ints=[2]>()
            part = Slice(label, starts, ends, channel)
            half = Constant<value_float=0.5>()
            less = Mul(part, half)
            refined = Sub(image, less)
        }""",
}


def session(name: str) -> Any:
    model = onnx.parser.parse_model(GRAPHS[name])
    onnx.checker.check_model(model)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


SESSIONS = {name: session(name) for name in GRAPHS}


def network(name: str) -> Callable[..., list[np.ndarray]]:
    return lambda **inputs: SESSIONS[name].run(None, inputs)


def components(device: HostDevice) -> dict[str, HostComponent]:
    return {name: HostComponent(device, name, OnnxRuntimeComponent(value, "cpu")) for name, value in SESSIONS.items()}


def plan(sampler: str = "ddim", guidance: float | None = None, eta: float = 1.0) -> SamplingPlan:
    if sampler == "ddim":
        coefficients = tuple(ddim_coefficients("v_prediction", *now, *then, eta=eta) for now, then in pairwise(POINTS))
    else:
        coefficients = (
            dpmpp_2m_coefficients("v_prediction", None, POINTS[0], POINTS[1]),
            dpmpp_2m_coefficients("v_prediction", POINTS[0], POINTS[1], POINTS[2]),
            dpmpp_2m_coefficients("v_prediction", None, POINTS[2], POINTS[3]),
        )
    return SamplingPlan(TIMESTEPS, coefficients, guidance)


def batch(first: int, count: int = 2) -> LoopBatch:
    samples = np.arange(first, first + count, dtype=np.uint64)
    condition = np.random.default_rng(first).standard_normal((count, COLUMNS)).astype(np.float32)
    return LoopBatch(SEED, samples, np.arange(count) % 3, condition, np.ones(count, np.float32))


def reference_latent(request: LoopBatch, steps: SamplingPlan) -> np.ndarray:
    """The same loop in NumPy with the reference steps."""
    draws = [int(attempt) * DRAWS_PER_ATTEMPT for attempt in request.attempts]

    def noise(step: int) -> np.ndarray:
        rows = [
            standard_normal(request.seed, int(sample), draw + step, int(np.prod(LATENT)))
            for sample, draw in zip(request.samples, draws, strict=True)
        ]
        return np.stack(rows).reshape(-1, *LATENT)

    x, previous = noise(0), None
    for step, (timestep, c) in enumerate(zip(steps.timesteps, steps.coefficients, strict=True)):
        time = np.full(len(x), timestep, np.float32)

        def predict(mask: np.ndarray, x: np.ndarray = x, time: np.ndarray = time) -> np.ndarray:
            return network("denoiser")(
                sample=x, timestep=time, condition=request.condition, condition_mask=mask
            )[0]  # fmt: skip

        conditional = predict(request.condition_mask)
        unconditional = None if steps.guidance is None else predict(np.zeros_like(request.condition_mask))
        guidance = steps.guidance or 0.0
        if hasattr(c, "from_previous_x0"):
            x, previous = dpmpp_2m_step(x, conditional, unconditional, guidance, c, previous)  # pyright: ignore
        else:
            x = ddim_step(x, conditional, unconditional, guidance, c, noise(step + 1))
    return x


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shared = tmp_path_factory.getbasetemp() / "cpu-kernels"
    shared.mkdir(exist_ok=True)
    return shared


def sampled(folder: Path, use_graphs: bool, steps: SamplingPlan, *batches: LoopBatch) -> tuple[list, list, list[str]]:
    """(latents, failure flags, what the device did) of batches through one loop."""
    device = HostDevice(folder)
    stream = device.stream()
    shape = LoopShape(batches[0].samples.size, LATENT, COLUMNS, steps.guidance is not None)
    loop = SamplingLoop(device, components(device)["denoiser"], shape, use_graphs)
    latents, flags = [], []
    for request in batches:
        loop.sample(request, steps, stream)
        latent, failed = np.empty(loop.latent.shape, np.float32), np.empty(shape.samples, np.uint32)
        device.download(loop.latent, latent, stream)
        device.download(loop.failed, failed, stream)
        latents.append(latent)
        flags.append(failed)
    return latents, flags, device.log


@pytest.mark.parametrize("guidance", [None, 2.0])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp-2m"])
def test_the_loop_computes_what_numpy_computes(folder: Path, sampler: str, guidance: float | None) -> None:
    steps = plan(sampler, guidance)
    requests = batch(5), batch(2**33)
    latents, flags, _ = sampled(folder, True, steps, *requests)
    for request, latent, failed in zip(requests, latents, flags, strict=True):
        np.testing.assert_allclose(latent, reference_latent(request, steps), atol=3e-5)
        assert not failed.any()


@pytest.mark.parametrize("guidance", [None, 2.0])
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp-2m"])
def test_graph_replays_give_the_bytes_of_plain_launches(folder: Path, sampler: str, guidance: float | None) -> None:
    steps = plan(sampler, guidance)
    requests = batch(0), batch(9), batch(0)
    replayed, _, log = sampled(folder, True, steps, *requests)
    launched, _, plain_log = sampled(folder, False, steps, *requests)
    assert [latent.tobytes() for latent in replayed] == [latent.tobytes() for latent in launched]
    assert replayed[0].tobytes() == replayed[2].tobytes() != replayed[1].tobytes()
    assert (log.count("capture"), log.count("replay")) == (1, 3)
    assert "capture" not in plain_log
    assert "replay" not in plain_log


def test_the_order_of_launches(folder: Path) -> None:
    _, _, log = sampled(folder, False, plan(), batch(0))
    uploads = ["upload"] * 4
    assert log == [*uploads, "initial_latent_f32", *["denoiser", "ddim_step_f32"] * 3, "download", "download"]


def test_graphs_are_kept_by_steps_guidance_and_sampler(folder: Path) -> None:
    device = HostDevice(folder)
    stream = device.stream()
    loop = SamplingLoop(device, components(device)["denoiser"], LoopShape(2, LATENT, COLUMNS, True), True)
    plans = [plan("ddim", 2.0), plan("ddim", 3.0), plan("dpmpp-2m", 2.0), plan("ddim", 2.0, eta=0.0)]
    short = SamplingPlan(TIMESTEPS[:2], plans[0].coefficients[:2], 2.0)
    for expected, steps in enumerate([*plans, short], start=1):
        for first in (0, 4):
            loop.sample(batch(first), steps, stream)
            assert loop.graph_count == expected
    loop.sample(batch(0), plan("ddim", 2.0), stream)
    assert loop.graph_count == 5


def test_a_sample_does_not_depend_on_its_neighbours(folder: Path) -> None:
    request = batch(3)
    (both,), _, _ = sampled(folder, True, plan(), request)
    other = replace(request, samples=np.array([3, 77], np.uint64))
    (changed,), _, _ = sampled(folder, True, plan(), other)
    assert both[0].tobytes() == changed[0].tobytes()
    assert both[1].tobytes() != changed[1].tobytes()


def test_nan_marks_only_its_sample(folder: Path) -> None:
    request = batch(0, 3)
    request.condition[1, 0] = np.nan
    latents, flags, _ = sampled(folder, True, plan(), request, batch(0, 3))
    assert [failed.tolist() for failed in flags] == [[0, 1, 0], [0, 0, 0]]
    assert np.isfinite(latents[0][[0, 2]]).all()
    assert latents[0][[0, 2]].tobytes() == latents[1][[0, 2]].tobytes()


def test_what_does_not_fit_the_loop_is_refused(folder: Path) -> None:
    device = HostDevice(folder)
    loop = SamplingLoop(device, components(device)["denoiser"], LoopShape(2, LATENT, COLUMNS, False), True)
    with pytest.raises(ValueError, match=r"guidance 2\.0 does not fit"):
        loop.sample(batch(0), plan(guidance=2.0), device.stream())
    with pytest.raises(ValueError, match="takes 2 samples with 2 condition columns"):
        loop.sample(batch(0, 3), plan(), device.stream())
    with pytest.raises(ValueError, match="one timestep and one set"):
        SamplingPlan((1.0,), ())


def generator(folder: Path, samples: int, memory: int = 2**31) -> tuple[VolumeGenerator, HostDevice]:
    device = HostDevice(folder, memory)
    loop = LoopShape(samples, LATENT, COLUMNS, False)
    finish, streams = FinishShape(VOLUME, (4, 2, 2), 0.3), (device.stream(), device.stream())
    return VolumeGenerator(device, components(device), loop, finish, streams, True), device


def test_volumes_come_out_whole_and_in_order(folder: Path) -> None:
    pipeline, device = generator(folder, 2)
    requests = [batch(first) for first in (0, 2, 4, 6, 8)]
    results = list(pipeline.generate(iter(requests), plan()))
    assert [result.batch for result in results] == requests
    for result, request in zip(results, requests, strict=True):
        (latent,), _, _ = sampled(folder, False, plan(), request)
        slices = latent.transpose(0, 2, 1, 3, 4).reshape(-1, 4, 2, 2)
        position = np.tile(np.arange(3), 2)
        image, logits = network("decoder")(latent=slices, position=position)
        shape = (2, 3, -1, 4, 4)
        (refined,) = network("refiner")(
            image=np.clip(image, -1, 1).reshape(shape), label=one_hot(logits).reshape(shape)
        )
        images, labels = assemble(refined.reshape(image.shape), logits, 3, 0.3)
        np.testing.assert_array_equal(result.images, images)
        np.testing.assert_array_equal(result.labels, labels)
        np.testing.assert_array_equal(result.counts, measure(images, labels))
        assert not result.failed.any()
    assert device.log.count("capture") == 2


def test_the_next_batch_is_started_before_the_last_is_awaited(folder: Path) -> None:
    pipeline, device = generator(folder, 1)
    list(pipeline.generate([batch(first, 1) for first in range(4)], plan()))
    device.log.clear()
    finished = pipeline.generate([batch(first, 1) for first in range(3)], plan())
    next(finished)
    assert device.log.count("replay") == 2
    assert device.log.index("synchronize") > len(device.log) - 1 - device.log[::-1].index("replay")
    list(finished)
    assert device.log.count("replay") == 3


def test_a_refiner_is_optional_and_the_others_are_not(folder: Path) -> None:
    device = HostDevice(folder)
    parts = components(device)
    shape = FinishShape(VOLUME, (4, 2, 2), 0.3)
    Finisher(device, {name: parts[name] for name in ("aggregator", "decoder")}, shape)
    with pytest.raises(ValueError, match="needs an aggregator and a decoder, not only decoder"):
        Finisher(device, {"decoder": parts["decoder"]}, shape)
    parts["refiner"].storage = "f16"
    with pytest.raises(ValueError, match="one storage type"):
        Finisher(device, {name: parts[name] for name in ("aggregator", "decoder", "refiner")}, shape)


def test_out_of_memory_halves_the_batch_and_says_so(folder: Path) -> None:
    said: list[str] = []
    _, size = fit_batch(lambda n: generator(folder, n, memory=20_000), 16, said.append)
    assert size == 4
    assert [line.split(" does")[0] for line in said] == ["batch size 16", "batch size 8"]
    assert said[0].endswith("going on with 8")
    assert "no room for" in said[0]
    with pytest.raises(DeviceMemoryError, match="no room"):
        fit_batch(lambda n: generator(folder, n, memory=100), 2, said.append)


class SessionBackend:
    """The networks of this file as the CPU engine's backend."""

    def run(self, component: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        names = [node.name for node in SESSIONS[component].get_outputs()]
        return dict(zip(names, SESSIONS[component].run(names, dict(inputs)), strict=True))


def tiny_bundle() -> Any:
    """What loop and engine read of a bundle."""
    bars = tuple(np.linspace(0.99, 0.02, 1000).tolist())
    manifest = SimpleNamespace(
        schedule=NoiseSchedule("linear", "v_prediction", "trailing", bars),
        latent=SimpleNamespace(shape=LATENT),
        condition_columns=("a", "b"),
        background_threshold=0.3,
        modalities=("t1", "t2"),
        labels=("background", "ncr", "ed", "et"),
        grid=SimpleNamespace(shape=VOLUME.shape),
        components={"decoder": SimpleNamespace(inputs=(TensorSpec("latent", ("batch", 4, 2, 2), "float32"),))},
    )
    return SimpleNamespace(manifest=manifest, has=lambda name: name in GRAPHS)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(
    ("sampler", "eta", "guidance"), [("ddim", 0.0, 1.0), ("ddim", 1.0, 2.0), ("dpmpp-2m", 0.0, 1.0)]
)
def test_volumes_are_those_of_the_cpu_engine(
    folder: Path, sampler: Sampler, eta: float, guidance: float, steps: int
) -> None:
    bundle, device = tiny_bundle(), HostDevice(folder)
    options = SamplingOptions(steps, sampler, eta, guidance, SEED, 2)
    streams = (device.stream(), device.stream())
    pipeline, size = open_generator(bundle, options, device, components(device), streams, True, pytest.fail)
    request = batch(4)
    (made,) = pipeline.generate([request], sampling_plan(bundle.manifest.schedule, options))
    assert size == 2
    engine = VolumeSampler(bundle, SessionBackend(), options)  # pyright: ignore[reportArgumentType]
    wanted = [SampleRequest(4, 0, request.condition[0]), SampleRequest(5, 1, request.condition[1])]
    for index, volume in enumerate(engine.sample(wanted)):
        assert np.abs(made.images[index].astype(int) - volume.image).max() <= 1
        np.testing.assert_array_equal(made.labels[index], volume.label)


@dataclass
class FakeContext:
    """TensorRT's execution context as far as `TensorRtComponent` uses it."""

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

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, handle: int) -> bool:
        return self.runs


class FakeStream:
    handle = 7


def test_tensorrt_component_binds_what_the_engine_knows() -> None:
    buffers = {"sample": Buffer(16, (2, 3), "f16"), "timestep": Buffer(32, (2,), "f32")}
    outputs = {"prediction": Buffer(48, (2, 3), "f16")}
    context = FakeContext()
    TensorRtComponent(context, "f16").enqueue(buffers, outputs, FakeStream())
    assert context.addresses == {"sample": 16, "prediction": 48}
    with pytest.raises(BackendUnavailableError, match=r"sample \(2, 3\) is outside"):
        TensorRtComponent(FakeContext(fits=False), "f16").enqueue(buffers, outputs, FakeStream())
    with pytest.raises(BackendUnavailableError, match="refused"):
        TensorRtComponent(FakeContext(runs=False), "f16").enqueue(buffers, outputs, FakeStream())


def test_onnx_runtime_without_cuda_is_refused(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendUnavailableError, match="has no CUDA"):
        open_cuda_session(tmp_path / "model.onnx", 0)


def test_no_gpu_is_an_unavailable_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    from sbldm.engine.backends.cuda_device import CudaDevice
    from sbldm.kernels.launcher import GpuUnavailableError

    def missing() -> None:
        raise GpuUnavailableError("the NVIDIA driver sees no GPU")

    monkeypatch.setattr("sbldm.engine.backends.cuda_device.pycuda_driver", missing)
    with pytest.raises(BackendUnavailableError, match="sees no GPU") as refused:
        CudaDevice()
    assert refused.value.exit_code == 4


def test_a_missing_pycuda_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from sbldm.kernels.launcher import GpuUnavailableError, pycuda_driver

    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(GpuUnavailableError, match="pip install"):
        pycuda_driver()
