"""TensorRT of either flavour behind the backend protocol: host arrays in, host arrays out, engines from the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...bundle.load import Bundle
from ...bundle.manifest import ComponentSpec
from ...cuda.device import Buffer, Device, DeviceNetwork
from ...cuda.device_networks import TensorRtNetwork
from ...cuda.forms import loops_of
from ...cuda.gpu import CudaDevice
from ...cuda.shapes import STAGES, rows_of
from ...errors import InvalidInputError
from .build import load_flavour
from .engines import EngineSet, present_target

Inputs = Mapping[str, NDArray[np.generic]]
Outputs = dict[str, NDArray[np.float32]]


class TensorRtNetworks:
    """A bundle's components on a GPU in TensorRT, as `loops.Networks`."""

    def __init__(self, engines: EngineSet, device: Device) -> None:
        self._engines, self._device, self.precision = engines, device, engines.precision

    def open_device(self) -> Device:
        """The GPU."""
        return self._device

    def refuse_graphs(self, reason: str) -> None:
        """Nothing to do: engines are the same whether they are captured or not."""

    def components(self, rows: Mapping[str, int], device: Device, streams: tuple[Any, Any]) -> dict[str, DeviceNetwork]:
        """Execution contexts by component, each for its number of rows; built where needed."""
        found: dict[str, DeviceNetwork] = {}
        for name, count in rows.items():
            network, _ = self._engines.open(name, count, device)
            network.ask_capturable(streams[name not in STAGES])
            found[name] = network
        return found


class TensorRtBackend:
    """Runs a bundle's components as TensorRT engines.

    Args:
        bundle: verified bundle.
        engines: of this bundle and this machine's GPU.
        device: the GPU's memory and streams.
        index: the GPU's number.
        batch: rows of the denoiser's engine; other calls run in pieces of that size.
    """

    name = "tensorrt"

    def __init__(self, bundle: Bundle, engines: EngineSet, device: Device, index: int = 0, batch: int = 1) -> None:
        self.bundle, self.engines, self._device = bundle, engines, device
        self.device = f"cuda:{index}"
        self.precision = engines.precision
        self.threads = 1
        self._rows = {name: rows_of(name, batch, bundle.manifest) for name in bundle.manifest.components}
        self._components: dict[str, TensorRtNetwork] = {}
        self._buffers: dict[tuple[str, str], Buffer] = {}
        with device.current():
            self._stream = device.stream()
        self.loops = loops_of(bundle, TensorRtNetworks(engines, device))
        self.version = f"{engines.flavour.name} {engines.flavour.version}"

    def run(self, component: str, inputs: Inputs) -> Outputs:
        """Outputs of a component by name; inputs as the bundle's manifest names them.

        Raises:
            InvalidInputError: an input is missing or has another shape than the manifest says.
            DeviceMemoryError, BackendUnavailableError: TensorRT has no memory for the run, or refuses it.
        """
        spec = self.bundle.manifest.components[component]
        size, rows = _batch_size(component, spec, inputs), self._rows[component]
        with self._device.current():
            pieces = [self._run_piece(component, spec, _piece(inputs, at, rows)) for at in range(0, size, rows)]
        return {tensor.name: np.concatenate([piece[tensor.name] for piece in pieces])[:size] for tensor in spec.outputs}

    def load(self, component: str, rows: int) -> None:
        """Make a component's engine ready, whatever the rows."""
        with self._device.current():
            self._component(component)

    def _run_piece(self, component: str, spec: ComponentSpec, inputs: Inputs) -> Outputs:
        buffers = {
            tensor.name: self._buffer(component, tensor.name, tensor.dtype, tensor.shape[1:])
            for tensor in (*spec.inputs, *spec.outputs)
        }
        kinds = {tensor.name: np.dtype(tensor.dtype) for tensor in spec.inputs}
        given = {name: np.ascontiguousarray(inputs[name], kind) for name, kind in kinds.items()}
        for name, values in given.items():  # which stay until the run is over
            self._device.upload(buffers[name], values, self._stream)
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

    def _buffer(self, component: str, tensor: str, dtype: str, tail: tuple[int | str, ...]) -> Buffer:
        key = (component, tensor)
        if key not in self._buffers:
            self._buffers[key] = self._device.allocate((self._rows[component], *(int(n) for n in tail)), dtype)
        return self._buffers[key]

    def _component(self, component: str) -> TensorRtNetwork:
        if component not in self._components:
            self._components[component], _ = self.engines.open(component, self._rows[component], self._device)
        return self._components[component]


def open_tensorrt(bundle: Bundle, index: int, batch: int, precision: str) -> TensorRtBackend:
    """The TensorRT backend of this machine's GPU `index`; engines are built at their first use, where none is cached.

    Raises:
        BackendUnavailableError: no TensorRT, or no GPU.
    """
    engines = EngineSet(bundle, load_flavour(), present_target(index), precision=precision)
    return TensorRtBackend(bundle, engines, CudaDevice(index), index, batch)


def _piece(inputs: Inputs, at: int, rows: int) -> Inputs:
    """Rows from `at` on, as many as an engine takes: what is missing repeats the last row."""
    picked = {name: values[at : at + rows] for name, values in inputs.items()}
    return {
        name: np.concatenate([values, np.repeat(values[-1:], rows - len(values), axis=0)])
        if len(values) < rows
        else values
        for name, values in picked.items()
    }


def _batch_size(component: str, spec: ComponentSpec, inputs: Inputs) -> int:
    size = len(next(iter(inputs.values()), ()))
    for tensor in spec.inputs:
        given = inputs.get(tensor.name)
        expected = (size, *tensor.shape[1:])
        if given is None or given.shape != expected or size == 0:
            shape = None if given is None else given.shape
            raise InvalidInputError(f"{component}: input {tensor.name} has shape {shape}, needed {expected}")
    return size
