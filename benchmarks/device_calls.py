"""Components on a GPU by its own clock: CUDA events around runs on the device's memory, without any copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.bundle.load import Bundle
from ..engine.cuda.device import Buffer
from ..engine.cuda.loops import DeviceLoops
from ..engine.cuda.shapes import rows_of
from .gpu_timing import milliseconds
from .machine import OtherLoad
from .timing import Run

Arrays = Mapping[str, NDArray[Any]]


def device_inputs(bundle: Bundle, component: str, inputs: Arrays, batch: int) -> dict[str, NDArray[Any]]:
    """Of recorded inputs the rows that a GPU takes at once, in the types of the bundle's manifest."""
    rows = min(rows_of(component, batch, bundle.manifest), len(next(iter(inputs.values()))))
    tensors = bundle.manifest.components[component].inputs
    return {tensor.name: np.ascontiguousarray(inputs[tensor.name][:rows], tensor.dtype) for tensor in tensors}


def device_call(bundle: Bundle, loops: DeviceLoops[Any], component: str, inputs: Arrays) -> Callable[[], Run]:
    """What times a component's run on these inputs: seconds of a run, the median of as many as `milliseconds` takes.

    Raises:
        DeviceMemoryError, BackendUnavailableError: network or buffers cannot be had.
    """
    device = loops.device()
    with device.current():
        stream = device.stream()
        rows = len(next(iter(inputs.values())))
        network = loops.networks.components({component: rows}, device, (stream, stream))[component]
        given: dict[str, Buffer] = {name: device.allocate(v.shape, v.dtype.name) for name, v in inputs.items()}
        made = {
            tensor.name: device.allocate((rows, *map(int, tensor.shape[1:])), tensor.dtype)
            for tensor in bundle.manifest.components[component].outputs
        }
        for name, values in inputs.items():
            device.upload(given[name], values, stream)
        device.synchronize(device.record(stream))

    def take() -> Run:
        load = OtherLoad()
        with device.current():
            ms = milliseconds(stream, partial(network.enqueue, given, made, stream))
        return Run(ms / 1000, load.cores())

    return take
