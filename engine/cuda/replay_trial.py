"""Whether ONNX Runtime's own CUDA graphs of denoisers replay what they ran: what the process of `replay_refusal` does.

Some failures in a capture end the process (onnxruntime pull request 32081 has examples); and a graph might replay
something else than was run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..bundle.load import Bundle, load_bundle
from ..errors import BackendUnavailableError, SbldmError
from ..sampling.plan import sampling_plan
from ..sampling.types import SamplingOptions
from .device import Device, DeviceNetwork
from .gpu import CudaDevice
from .loop import SamplingLoop, blank_batch
from .onnx_networks import OnnxRuntimeNetworks
from .replay_refusal import REFUSED
from .shapes import STAGES, loop_shape

_STEPS = 2
_SAMPLES = (0, 1, 0)  # a graph is captured at the first runs and replayed at later ones


def trial(
    device: Device, denoisers: Sequence[DeviceNetwork], bundle: Bundle, stream: Any, component: str = "denoiser"
) -> str | None:
    """Two steps of a few samples with each of a component's networks; None where the states are the same bytes, else
    the reason.
    """
    plan = sampling_plan(bundle.manifest.schedule, SamplingOptions(_STEPS, "ddim", 1.0, 1.0, 0, 1))
    shape = loop_shape(bundle.manifest, component, 1, guided=False)
    found = []
    for denoiser in denoisers:
        loop = SamplingLoop(device, denoiser, shape, use_graphs=False)
        for sample in _SAMPLES:
            loop.sample(replace(blank_batch(shape), samples=np.array([sample], np.uint64)), plan, stream)
            values = device.pinned(loop.latent.shape, loop.latent.dtype)
            device.download(loop.latent, values, stream)
            device.synchronize(device.record(stream))
            found.append(values.tobytes())
    each = len(_SAMPLES)
    return None if found[:each] == found[each:] else f"a replay of {component} gave other states than its launches"


def main(arguments: Sequence[str]) -> int:
    """The trial's process: bundle, GPU, precision; exit status 0, or `REFUSED` with the reason on stdout."""
    bundle, index, precision = load_bundle(arguments[0]), int(arguments[1]), arguments[2]
    device, reason = CudaDevice(index), None
    with device.current():
        stream = device.stream()
        for component in filter(bundle.has, STAGES):
            denoisers = [
                OnnxRuntimeNetworks(bundle, index, precision, replays).component(component, 1, device, stream)
                for replays in (False, True)
            ]
            reason = reason or _told(device, denoisers, bundle, stream, component)
    print(reason or "", flush=True)
    return REFUSED if reason else 0


def _told(
    device: Device, denoisers: Sequence[DeviceNetwork], bundle: Bundle, stream: Any, component: str
) -> str | None:
    try:
        return trial(device, denoisers, bundle, stream, component)
    except BackendUnavailableError as error:
        return str(error)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SbldmError as problem:
        sys.exit(str(problem))
