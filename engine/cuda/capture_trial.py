"""Whether ONNX Runtime's denoiser may be captured in a graph of ours: tried in a process of its own.

Some versions do not refuse a capture that they cannot follow but end the process, when they free host memory meanwhile
(onnxruntime pull request 32081 has figures); others might replay something else than they ran.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..bundle.load import Bundle, load_bundle
from ..errors import SbldmError
from ..sampling.plan import sampling_plan
from ..sampling.types import SamplingOptions
from .device import Device, DeviceNetwork, GraphError
from .loop import LoopBatch, LoopShape, SamplingLoop
from .networks import OnnxRuntimeNetworks

_STEPS = 2
_SAMPLES = (0, 1, 0)
_TIMEOUT_S = 600
_REFUSED = 3


def capture_refusal(bundle: Bundle, index: int) -> str | None:
    """Why the denoiser of a bundle is not to be captured on GPU `index`; None where a trial went well."""
    return outcome([sys.executable, "-m", __name__, str(bundle.path), str(index)])


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
        return f"capturing it ended a trial process by {signal.Signals(-done.returncode).name}"
    said = done.stderr.strip().splitlines()
    return f"a trial failed: {said[-1] if said else f'exit status {done.returncode}'}"


def trial(device: Device, denoiser: DeviceNetwork, bundle: Bundle, stream: object) -> str | None:
    """Two steps of a few samples, launched and replayed; None where the latents are the same bytes, else the reason."""
    manifest = bundle.manifest
    columns = len(manifest.condition_columns)
    plan = sampling_plan(manifest.schedule, SamplingOptions(_STEPS, "ddim", 1.0, 1.0, 0, 1))
    shape = LoopShape(1, manifest.latent.shape, columns, guided=False)

    def latents(use_graphs: bool) -> list[NDArray[np.generic]]:
        loop = SamplingLoop(device, denoiser, shape, use_graphs)
        found = []
        for sample in _SAMPLES:
            condition, ones = np.zeros((1, columns), np.float32), np.ones(1, np.float32)
            loop.sample(
                LoopBatch(0, np.array([sample], np.uint64), np.zeros(1, np.int64), condition, ones), plan, stream
            )
            values = device.pinned(loop.latent.shape, loop.latent.dtype)
            device.download(loop.latent, values, stream)
            device.synchronize(device.record(stream))
            found.append(values)
        return found

    launched = latents(use_graphs=False)
    try:
        replayed = latents(use_graphs=True)
    except GraphError as error:
        return str(error)
    same = all(a.tobytes() == b.tobytes() for a, b in zip(launched, replayed, strict=True))
    return None if same else "its replay gave other latents than its launches"


def main(arguments: Sequence[str]) -> int:
    """The trial's process: bundle and GPU; exit status 0, or 3 with the reason on stdout."""
    bundle, index = load_bundle(arguments[0]), int(arguments[1])
    networks = OnnxRuntimeNetworks(bundle, index)
    device = networks.open_device()
    with device.current():
        stream = device.stream()
        reason = trial(device, networks.component("denoiser", stream), bundle, stream)
    print(reason or "", flush=True)
    return _REFUSED if reason else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SbldmError as problem:
        sys.exit(str(problem))
