"""Tiny networks on a stand-in device, and a backend whose sampling loop runs there."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.backends.onnxruntime import OnnxRuntimeBackend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.bundle.manifest import SamplerName
from sbldm.engine.cuda.device import DeviceNetwork
from sbldm.engine.cuda.device_networks import OnnxRuntimeNetwork
from sbldm.engine.cuda.forms import loops_of
from sbldm.engine.cuda.loop import LoopBatch, LoopShape
from sbldm.engine.sampling.plan import SamplingPlan
from sbldm.kernels.calls import VolumeShape
from sbldm.kernels.ddim import ddim_coefficients
from sbldm.kernels.dpmpp import dpmpp_2m_coefficients

from tests.support.host_device import HostDevice, HostNetwork

POINTS = ((0.2, 0.98**0.5 * 0.98), (0.6, 0.8), (0.8, 0.6), (1.0, 0.0))

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


class Toy:
    """Networks of a few nodes in ONNX Runtime, with batches and plans for them."""

    latent = (4, 3, 2, 2)  # channel, depth, height, width
    columns = 2
    volume = VolumeShape(modalities=2, classes=4, shape=(4, 4, 3))
    timesteps = (900.0, 500.0, 100.0)
    seed = 2**63 + 5

    def __init__(self) -> None:
        onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
        self._sessions = {}
        for name, text in GRAPHS.items():
            model = onnx.parser.parse_model(text)
            onnx.checker.check_model(model)
            self._sessions[name] = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(self, name: str, **inputs: np.ndarray) -> list[np.ndarray]:
        """Outputs of a network."""
        return self._sessions[name].run(None, inputs)

    def components(self, device: HostDevice) -> dict[str, HostNetwork]:
        """The networks on a device."""
        found = self._sessions.items()
        return {name: HostNetwork(device, name, OnnxRuntimeNetwork(value, "cpu")) for name, value in found}

    def plan(self, sampler: SamplerName = "ddim", guidance: float | None = None, eta: float = 1.0) -> SamplingPlan:
        """Three steps."""
        if sampler == "ddim":
            coefficients = tuple(
                ddim_coefficients("v_prediction", *now, *then, eta=eta) for now, then in pairwise(POINTS)
            )
        else:
            coefficients = (
                dpmpp_2m_coefficients("v_prediction", None, POINTS[0], POINTS[1]),
                dpmpp_2m_coefficients("v_prediction", POINTS[0], POINTS[1], POINTS[2]),
                dpmpp_2m_coefficients("v_prediction", None, POINTS[2], POINTS[3]),
            )
        return SamplingPlan(sampler, self.timesteps, coefficients, guidance)

    def batch(self, first: int, count: int = 2) -> LoopBatch:
        """Samples from `first` on, at attempts 0, 1, 2."""
        samples = np.arange(first, first + count, dtype=np.uint64)
        condition = np.random.default_rng(first).standard_normal((count, self.columns)).astype(np.float32)
        told = {"condition": condition}
        return LoopBatch(self.seed, samples, np.arange(count) % 3, told, np.ones(count, np.float32))

    def shape(self, samples: int, guided: bool = False) -> LoopShape:
        """Of a loop around the denoiser."""
        return LoopShape(samples, self.latent, {"condition": (self.columns,)}, guided)


class HostNetworks:
    """A bundle's networks on a `HostDevice`."""

    precision = "fp32"

    def __init__(self, backend: OnnxRuntimeBackend, device: HostDevice) -> None:
        self.backend, self.device = backend, device

    def open_device(self) -> HostDevice:
        return self.device

    def refuse_graphs(self, reason: str) -> None:
        pass

    def components(self, rows: Mapping[str, int], device: Any, streams: tuple[Any, Any]) -> dict[str, DeviceNetwork]:
        return {name: self.component(name) for name in rows}

    def component(self, name: str) -> DeviceNetwork:
        return HostNetwork(self.device, name, OnnxRuntimeNetwork(self.backend.session(name), "cpu"))


class HostLoopBackend:
    """ONNX Runtime under the name of a GPU's: the loop runs on a `HostDevice`."""

    name, device, precision, threads = "onnxruntime", "cuda:0", "fp32", 1

    def __init__(self, bundle: Bundle, device: HostDevice, networks: type[HostNetworks] = HostNetworks) -> None:
        self._backend = OnnxRuntimeBackend(bundle, "cpu", 1)
        self.version = self._backend.version
        self.loops = loops_of(bundle, networks(self._backend, device))

    def run(self, component: str, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        return self._backend.run(component, inputs)
