"""TensorRT of either flavour behind the backend protocol: host arrays in, host arrays out, engines from the cache."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.load import Bundle
from ...bundle.manifest import ComponentSpec
from ...cuda.device import Buffer, Device, DeviceNetwork
from ...cuda.device_networks import TensorRtNetwork
from ...cuda.gpu import CudaDevice
from ...cuda.loops import DeviceLoops
from ...cuda.networks import SAMPLED, OnnxRuntimeNetworks
from ...errors import InvalidInputError
from ...sampling.types import Backend
from .build import load_flavour
from .cache import BatchProfile
from .engines import EngineSet, present_target, profile_of

TIMED_RUNS = 5

Inputs = Mapping[str, NDArray[np.generic]]
Outputs = dict[str, NDArray[np.float32]]


class TensorRtNetworks:
    """A bundle's components on a GPU, in TensorRT or where they are faster, as `loops.Networks`.

    `choices`: component -> backend; `fallback` opens those of ONNX Runtime.
    """

    def __init__(
        self, engines: EngineSet, device: Device, choices: Mapping[str, str], fallback: OnnxRuntimeNetworks
    ) -> None:
        self._engines, self._device, self._choices, self._fallback = engines, device, choices, fallback

    def open_device(self) -> Device:
        """The GPU."""
        return self._device

    def capture_refusal(self) -> str | None:
        """None for TensorRT, which lets itself be captured or says why not."""
        return None if self._choices["denoiser"] == TensorRtBackend.name else self._fallback.capture_refusal()

    def components(self, rows: int, streams: tuple[Any, Any]) -> dict[str, DeviceNetwork]:
        """Execution contexts, for the denoiser's `rows`, all slices of one volume, one volume; built where needed."""
        found: dict[str, DeviceNetwork] = {}
        for name, choice in self._choices.items():
            if choice == TensorRtBackend.name:
                depth = self._engines.bundle.manifest.grid.shape[2]
                engine = self._engines.open(name, profile_of(name, rows, depth))
                found[name] = TensorRtNetwork(engine.context, engine.problems)
            else:
                found[name] = self._fallback.component(name, streams[name != "denoiser"])
        return found


class TensorRtBackend:
    """Runs a bundle's components as TensorRT engines; what generation runs faster in ONNX Runtime is left to that.

    Args:
        bundle: verified bundle.
        engines: of this bundle and this machine's GPU.
        device: the GPU's memory and streams.
        index: the GPU's number.
        batch: rows of the denoiser's profile; larger calls run in several pieces.
        fallback: ONNX Runtime to compare with, component by component; None takes TensorRT for all.
    """

    name = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        engines: EngineSet,
        device: Device,
        index: int = 0,
        batch: int = 1,
        fallback: Backend | None = None,
    ) -> None:
        self.bundle, self.engines, self._device, self._fallback = bundle, engines, device, fallback
        self.device = f"cuda:{index}"
        self.precision = bundle.manifest.precision
        self.threads = 1
        depth = bundle.manifest.grid.shape[2]
        self._profiles = {name: profile_of(name, batch, depth) for name in bundle.manifest.components}
        self._components: dict[str, TensorRtNetwork] = {}
        self._buffers: dict[tuple[str, str, int], Buffer] = {}
        with device.current():
            self._stream = device.stream()
            self.choices = {name: self._choose(name) for name in SAMPLED if bundle.has(name)}
        networks = TensorRtNetworks(engines, device, self.choices, OnnxRuntimeNetworks(bundle, index))
        self.loops = DeviceLoops.of(bundle, networks)
        others = [name for name, choice in self.choices.items() if choice != self.name]
        self.version = f"{engines.flavour.name} {engines.flavour.version}"
        if others and fallback is not None:
            self.version += f", {fallback.name} {fallback.version} for {', '.join(sorted(others))}"

    def run(self, component: str, inputs: Inputs) -> Outputs:
        """Outputs of a component by name; inputs as the bundle's manifest names them.

        Raises:
            InvalidInputError: an input is missing or has another shape than the manifest says.
            DeviceMemoryError, BackendUnavailableError: TensorRT has no memory for the run, or refuses it.
        """
        if self._fallback is not None and self.choices.get(component) == self._fallback.name:
            return self._fallback.run(component, inputs)
        spec = self.bundle.manifest.components[component]
        size = _batch_size(component, spec, inputs)
        most = self._profiles[component].maximum
        with self._device.current():
            pieces = [
                self._run_piece(component, spec, {name: value[at : at + most] for name, value in inputs.items()})
                for at in range(0, size, most)
            ]
        return {tensor.name: np.concatenate([piece[tensor.name] for piece in pieces]) for tensor in spec.outputs}

    def _run_piece(self, component: str, spec: ComponentSpec, inputs: Inputs) -> Outputs:
        size = len(next(iter(inputs.values())))
        buffers = {
            tensor.name: self._buffer(component, tensor.name, tensor.dtype, size, tensor.shape[1:])
            for tensor in (*spec.inputs, *spec.outputs)
        }
        for tensor in spec.inputs:
            values = np.ascontiguousarray(inputs[tensor.name], np.dtype(tensor.dtype))
            self._device.upload(buffers[tensor.name], values, self._stream)
        self._component(component).enqueue(
            {tensor.name: buffers[tensor.name] for tensor in spec.inputs},
            {tensor.name: buffers[tensor.name] for tensor in spec.outputs},
            self._stream,
        )
        results = {tensor.name: np.empty(buffers[tensor.name].shape, np.float32) for tensor in spec.outputs}
        for name, values in results.items():
            self._device.download(buffers[name], values, self._stream)
        self._device.synchronize(self._device.record(self._stream))
        return results

    def _buffer(self, component: str, tensor: str, dtype: str, size: int, tail: tuple[int | str, ...]) -> Buffer:
        """Rows of a buffer that holds the largest batch of the profile and is kept for the next run."""
        key = (component, tensor, self._profiles[component].maximum)
        if key not in self._buffers:
            self._buffers[key] = self._device.allocate((key[2], *(int(n) for n in tail)), dtype)
        return self._buffers[key].rows(0, size)

    def _component(self, component: str) -> TensorRtNetwork:
        if component not in self._components:
            engine = self.engines.open(component, self._profiles[component])
            self._components[component] = TensorRtNetwork(engine.context, engine.problems)
        return self._components[component]

    def _choose(self, component: str) -> str:
        """Which backend is faster for a component: measured once, stored beside the engine."""
        if self._fallback is None:
            return self.name
        profile = self._profiles[component]
        engine = self.engines.prepare(component, profile)
        if engine.figures.get("compared_with") != f"{self._fallback.name} {self._fallback.version}":
            spec, fallback = self.bundle.manifest.components[component], self._fallback
            inputs = zero_inputs(spec, profile)
            ours = median_ms(lambda: self._run_piece(component, spec, inputs))
            theirs = median_ms(lambda: fallback.run(component, inputs))
            figures = {
                "compared_with": f"{fallback.name} {fallback.version}",
                "chosen": self.name if ours <= theirs else fallback.name,
                "tensorrt_ms": ours,
                "onnxruntime_ms": theirs,
            }
            self.engines.cache.update_figures(self.engines.key(component, profile), figures)
            return str(figures["chosen"])
        return str(engine.figures["chosen"])


def open_tensorrt(bundle: Bundle, index: int, batch: int, fallback: Backend | None) -> TensorRtBackend:
    """The TensorRT backend of this machine's GPU `index`, its engines built where the cache has none.

    Raises:
        BackendUnavailableError: no TensorRT, no GPU, or a graph that TensorRT does not take.
        DeviceMemoryError: a build ran out of memory.
    """
    engines = EngineSet(bundle, load_flavour(), present_target(index))
    return TensorRtBackend(bundle, engines, CudaDevice(index), index, batch, fallback)


def zero_inputs(spec: ComponentSpec, profile: BatchProfile) -> dict[str, NDArray[Any]]:
    """Inputs of the profile's optimum, for timing."""
    return {
        tensor.name: np.zeros((profile.optimum, *(int(n) for n in tensor.shape[1:])), tensor.dtype)
        for tensor in spec.inputs
    }


def median_ms(call: Callable[[], object]) -> float:
    """Median milliseconds of a call, after one that is not counted."""
    call()
    taken = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(taken), 4)


def _batch_size(component: str, spec: ComponentSpec, inputs: Inputs) -> int:
    size = len(next(iter(inputs.values()), ()))
    for tensor in spec.inputs:
        given = inputs.get(tensor.name)
        expected = (size, *tensor.shape[1:])
        if given is None or given.shape != expected or size == 0:
            shape = None if given is None else given.shape
            raise InvalidInputError(f"{component}: input {tensor.name} has shape {shape}, needed {expected}")
    return size
