"""The mask-first form on a device: the steps of its two denoisers, between which the host solves the masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..sampling.batch import Batch
from ..sampling.mask_first import MaskFirstModel
from ..sampling.plan import SamplingPlan
from ..sampling.types import Arrays, RunComponent
from .device import Device, DeviceNetwork
from .loop import LoopBatch, LoopShape, SamplingLoop, blank_batch, loop_batch
from .loops import DeviceLoop, DeviceLoops, Ground
from .marks import marked
from .shapes import stage_shapes

_RUNS_TO_CAPTURE = 2  # ONNX Runtime captures a network at its second run


class StageSampler:
    """A `SamplingLoop` a denoiser, all memory allocated once; DeviceMemoryError where there is no room."""

    def __init__(
        self,
        device: Device,
        denoisers: Mapping[str, DeviceNetwork],
        shapes: Mapping[str, LoopShape],
        mask_plan: SamplingPlan,
        stream: Any,
        use_graphs: bool,
    ) -> None:
        self.shape = shapes["denoiser"]
        self._device, self._stream, self._mask_plan = device, stream, mask_plan
        self._loops = {name: SamplingLoop(device, denoisers[name], shape, use_graphs) for name, shape in shapes.items()}
        self._latents = {name: device.pinned(loop.latent.shape, "float32") for name, loop in self._loops.items()}

    def try_out(self, plan: SamplingPlan) -> None:
        """Samples nothing with each denoiser; see `loops.Work`."""
        for name, loop in self._loops.items():
            for _ in range(_RUNS_TO_CAPTURE):
                self.sampled(name, blank_batch(loop.shape), plan if name == "denoiser" else self._mask_plan)

    def sampled(self, component: str, batch: LoopBatch, plan: SamplingPlan, base_draw: int = 0) -> NDArray[np.float32]:
        """Clean states (N, ...) of a batch by one of the denoisers, in memory of their own."""
        loop, found = self._loops[component], self._latents[component]
        with marked(f"steps of {component}"):
            loop.sample(batch, plan, self._stream, base_draw)
            self._device.download(loop.latent, found, self._stream)
            self._device.synchronize(self._device.record(self._stream))
        return found.copy()


class StageLoops(DeviceLoops[StageSampler]):
    """See `DeviceLoops`."""

    def _work(self, batch: int, guided: bool, on: Ground) -> StageSampler:
        manifest, form = self._bundle.manifest, self._bundle.manifest.mask_first
        assert form is not None
        shapes, plan = stage_shapes(manifest, batch, guided), MaskFirstModel.of(manifest, form).mask_plan
        return StageSampler(on.device, on.components, shapes, plan, on.streams[0], on.use_graphs)


class StagedRun:
    """Components on a backend, the steps of denoisers in loops on its device: a `TakesSteps`."""

    def __init__(self, run: RunComponent, loop: DeviceLoop[StageSampler]) -> None:
        self._run, self._loop = run, loop

    def __call__(self, component: str, inputs: Arrays) -> Mapping[str, NDArray[np.float32]]:
        return self._run(component, inputs)

    def take_steps(
        self,
        component: str,
        batch: Batch,
        told: Mapping[str, NDArray[np.float32]],
        plan: SamplingPlan,
        base_draw: int,
    ) -> NDArray[np.float32]:
        """See `TakesSteps`."""
        with self._loop.device.current():
            return self._loop.work.sampled(component, loop_batch(batch, told), plan, base_draw)
