"""What the form of a bundle has on a device: the one place there where it decides."""

from __future__ import annotations

from typing import Any

from ..bundle.load import Bundle
from ..sampling.host import HostLoop
from ..sampling.model import model_of
from ..sampling.plan import sampling_plan
from ..sampling.types import RunComponent, SamplingOptions
from .batch_loop import CudaLoop
from .loops import DeviceLoops, Networks
from .stages import StagedRun, StageLoops
from .volume_loops import VolumeLoops


def loops_of(bundle: Bundle, networks: Networks) -> DeviceLoops[Any]:
    """Of a backend's networks: whole volumes of slices, the stages of the mask-first form."""
    return VolumeLoops(bundle, networks) if bundle.manifest.mask_first is None else StageLoops(bundle, networks)


def open_device_loop(
    bundle: Bundle, run: RunComponent, loops: DeviceLoops[Any], options: SamplingOptions
) -> CudaLoop | HostLoop:
    """The loop of a run whose steps are taken on a device; `run` computes what is not, a network at a time.

    UsageError, DeviceMemoryError and BackendUnavailableError as `CudaLoop` raises them.
    """
    if isinstance(loops, VolumeLoops):
        return CudaLoop(bundle, loops, options)
    model = model_of(bundle.manifest)
    loop = loops.open(options.batch_size, sampling_plan(model.schedule, options))
    return HostLoop(model, StagedRun(run, loop), options, f"each stage: {loop.reason}", loop.kind)
