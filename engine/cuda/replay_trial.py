"""Whether ONNX Runtime's own CUDA graph of a denoiser replays what it ran: tried in a process of its own.

Some failures in a capture end the process (onnxruntime pull request 32081 has examples); and a graph might replay
something else than was run.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..bundle.load import Bundle, load_bundle
from ..errors import BackendUnavailableError, SbldmError
from ..sampling.plan import sampling_plan
from ..sampling.types import SamplingOptions
from .device import Device, DeviceNetwork
from .gpu import CudaDevice
from .loop import LoopBatch, LoopShape, SamplingLoop
from .networks import OnnxRuntimeNetworks

_STEPS = 2
_SAMPLES = (0, 1, 0)  # a graph is captured at the first runs and replayed at later ones
_TIMEOUT_S = 600
_REFUSED = 3


def replay_refusal(bundle: Bundle, index: int, precision: str) -> str | None:
    """Why the denoiser of a bundle is not to be replayed on GPU `index`; None where a trial went well."""
    return outcome([sys.executable, "-m", __name__, str(bundle.path), str(index), precision])


def outcome(command: Sequence[str]) -> str | None:
    """What came of a trial's process: None, what it said, or how it ended."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"a trial could not be made: {error}"
    if done.returncode == 0:
        return None
    if done.returncode == _REFUSED:
        return done.stdout.strip()
    if done.returncode < 0:
        return f"replaying it ended a trial process by {signal.Signals(-done.returncode).name}"
    said = done.stderr.strip().splitlines()
    return f"a trial failed: {said[-1] if said else f'exit status {done.returncode}'}"


def trial(device: Device, denoisers: Sequence[DeviceNetwork], bundle: Bundle, stream: Any) -> str | None:
    """Two steps of a few samples with each denoiser; None where the latents are the same bytes, else the reason."""
    manifest = bundle.manifest
    columns = len(manifest.condition_columns)
    plan = sampling_plan(manifest.schedule, SamplingOptions(_STEPS, "ddim", 1.0, 1.0, 0, 1))
    shape = LoopShape(1, manifest.latent.shape, columns, guided=False)
    found = []
    for denoiser in denoisers:
        loop = SamplingLoop(device, denoiser, shape, use_graphs=False)
        for sample in _SAMPLES:
            condition, ones = np.zeros((1, columns), np.float32), np.ones(1, np.float32)
            loop.sample(
                LoopBatch(0, np.array([sample], np.uint64), np.zeros(1, np.int64), condition, ones), plan, stream
            )
            values = device.pinned(loop.latent.shape, loop.latent.dtype)
            device.download(loop.latent, values, stream)
            device.synchronize(device.record(stream))
            found.append(values.tobytes())
    each = len(_SAMPLES)
    return None if found[:each] == found[each:] else "its replay gave other latents than its launches"


def main(arguments: Sequence[str]) -> int:
    """The trial's process: bundle, GPU, precision; exit status 0, or 3 with the reason on stdout."""
    bundle, index, precision = load_bundle(arguments[0]), int(arguments[1]), arguments[2]
    device = CudaDevice(index)
    with device.current():
        stream = device.stream()
        denoisers = [
            OnnxRuntimeNetworks(bundle, index, precision, replays).component("denoiser", 1, device, stream)
            for replays in (False, True)
        ]
        try:
            reason = trial(device, denoisers, bundle, stream)
        except BackendUnavailableError as error:
            reason = str(error)
    print(reason or "", flush=True)
    return _REFUSED if reason else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SbldmError as problem:
        sys.exit(str(problem))
