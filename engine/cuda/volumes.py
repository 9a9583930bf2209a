"""From conditions to finished volumes on a device, two batches in flight: one is sampled while the other is decoded,
assembled, measured and copied out through pinned memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.calls import (
    Storage,
    VolumeShape,
    assemble_call,
    clip_image_call,
    measure_blocks_count,
    measure_calls,
    one_hot_call,
)
from ...kernels.measure import COLUMNS
from ..sampling.plan import SamplingPlan
from .device import Buffer, Component, Device
from .loop import LoopBatch, LoopShape, SamplingLoop

LANES = 2


@dataclass(frozen=True)
class VolumeBatch:
    """A finished batch in host memory of its own."""

    batch: LoopBatch
    images: NDArray[np.int16]  # (N, M, X, Y, Z)
    labels: NDArray[np.uint8]  # (N, X, Y, Z)
    counts: NDArray[np.int64]  # (N, 16), columns of kernels.measure
    failed: NDArray[np.bool_]  # (N,): latent or volume was not finite; the sample means nothing


@dataclass(frozen=True)
class FinishShape:
    """What decoding needs to know: the volumes' sizes, the slice latent (c, h, w), the background threshold."""

    volume: VolumeShape
    slice_latent: tuple[int, int, int]
    threshold: float


class Finisher:
    """Latents -> volumes, one sample at a time: aggregator, decoder, refiner if there is one, `assemble`, `measure`.

    `components` maps the bundle's names. ValueError where one is missing or they differ in storage type.
    """

    def __init__(self, device: Device, components: Mapping[str, Component], shape: FinishShape) -> None:
        self._device = device
        self._components = components
        self._shape = shape
        if not {"aggregator", "decoder"} <= components.keys():
            raise ValueError(f"the loop needs an aggregator and a decoder, not only {', '.join(components)}")
        self.storage: Storage = components["decoder"].storage
        if {component.storage for component in components.values()} != {self.storage}:
            raise ValueError("aggregator, decoder and refiner must share one storage type")
        v = shape.volume
        x, y, depth = v.shape
        self._slices = device.allocate((1, depth, *shape.slice_latent), self.storage)
        self._image = device.allocate((depth, v.modalities, x, y), self.storage)
        self._logits = device.allocate((depth, v.classes, x, y), self.storage)
        self._position = device.allocate((depth,), "int64")
        self._partial = device.allocate((1, measure_blocks_count(v), len(COLUMNS)), "int64")
        if "refiner" in components:
            self._one_hot = device.allocate(self._logits.shape, self.storage)
            self._refined = device.allocate(self._image.shape, self.storage)
        self._positions = device.pinned((depth,), "int64")
        self._positions[:] = np.arange(depth)

    def start(self, stream: Any) -> None:
        """Uploads the constants; once, before `finish`."""
        self._device.upload(self._position, self._positions, stream)

    def finish(
        self, latent: Buffer, images: Buffer, labels: Buffer, counts: Buffer, failed: Buffer, stream: Any
    ) -> None:
        """Queues the decoding of every sample of `latent` (N, ...) into images, labels and counts (N, ...).

        `failed` (N,) becomes 1 where a decoded value is not finite.
        """
        for n in range(latent.shape[0]):
            one, image, label, count, flag = (b.rows(n, n + 1) for b in (latent, images, labels, counts, failed))
            self._finish_one(one, image, label, count, flag, stream)

    def _finish_one(
        self, latent: Buffer, images: Buffer, labels: Buffer, counts: Buffer, failed: Buffer, stream: Any
    ) -> None:
        depth = self._shape.volume.shape[2]
        self._components["aggregator"].enqueue({"latent": latent}, {"slices": self._slices}, stream)
        slices = self._slices.reshaped(depth, *self._shape.slice_latent)
        outputs = {"image": self._image, "label_logits": self._logits}
        self._components["decoder"].enqueue({"latent": slices, "position": self._position}, outputs, stream)
        image = self._refine(stream) if "refiner" in self._components else self._image
        call = assemble_call(
            self.storage,
            self._shape.volume,
            1,
            self._shape.threshold,
            image=image.address,
            logits=self._logits.address,
            images=images.address,
            labels=labels.address,
            failed=failed.address,
        )
        self._device.launch(call, stream)
        for call in measure_calls(
            self._shape.volume,
            1,
            images=images.address,
            labels=labels.address,
            partial=self._partial.address,
            rows=counts.address,
        ):
            self._device.launch(call, stream)

    def _refine(self, stream: Any) -> Buffer:
        call = one_hot_call(
            self.storage,
            self._shape.volume,
            self._logits.shape[0],
            logits=self._logits.address,
            labels=self._one_hot.address,
        )
        self._device.launch(call, stream)
        elements = prod(self._image.shape)
        self._device.launch(clip_image_call(self.storage, elements, image=self._image.address), stream)
        inputs = {"image": _as_volume(self._image), "label": _as_volume(self._one_hot)}
        self._components["refiner"].enqueue(inputs, {"refined": _as_volume(self._refined)}, stream)
        return self._refined


class _Lane:
    """One batch in flight: its loop, its outputs on the device, and pinned host memory for them."""

    def __init__(self, device: Device, denoiser: Component, loop: LoopShape, v: VolumeShape, use_graphs: bool) -> None:
        self.loop = SamplingLoop(device, denoiser, loop, use_graphs)
        n = loop.samples
        self.outputs = {
            "images": device.allocate((n, v.modalities, *v.shape), "int16"),
            "labels": device.allocate((n, *v.shape), "uint8"),
            "counts": device.allocate((n, len(COLUMNS)), "int64"),
            "failed": self.loop.failed,
        }
        self.host = {name: device.pinned(buffer.shape, buffer.dtype) for name, buffer in self.outputs.items()}
        self.flying: Flight | None = None


@dataclass(frozen=True, eq=False)
class Flight:
    """A batch that was started; `VolumeGenerator.collect` takes it."""

    batch: LoopBatch
    lane: _Lane
    landed: Any  # event


class VolumeGenerator:
    """All memory of a run, allocated once; DeviceMemoryError where there is no room.

    `streams`: the denoiser's, and that of the other components.
    """

    def __init__(
        self,
        device: Device,
        components: Mapping[str, Component],
        loop: LoopShape,
        finish: FinishShape,
        streams: tuple[Any, Any],
        use_graphs: bool,
    ) -> None:
        self.shape = loop
        self._device = device
        rest = {name: component for name, component in components.items() if name != "denoiser"}
        self._finisher = Finisher(device, rest, finish)
        if components["denoiser"].storage != self._finisher.storage:
            raise ValueError("the denoiser must have the storage type of the other components")
        lanes = [_Lane(device, components["denoiser"], loop, finish.volume, use_graphs) for _ in range(LANES)]
        self._lanes = deque(lanes)  # the next one first
        self._sampling, self._finishing = streams
        self._finisher.start(self._finishing)

    def start(self, batch: LoopBatch, plan: SamplingPlan) -> Flight:
        """Queues a batch, from noise to copies in pinned memory; errors of `SamplingLoop.sample`.

        A batch that was started `LANES` starts ago and not collected is lost.
        """
        lane = self._lanes[0]
        self._lanes.rotate(-1)
        if lane.flying is not None:
            self._device.synchronize(lane.flying.landed)
            lane.flying = None
        lane.loop.sample(batch, plan, self._sampling)
        self._device.wait(self._finishing, self._device.record(self._sampling))
        outputs = (lane.outputs["images"], lane.outputs["labels"], lane.outputs["counts"], lane.outputs["failed"])
        self._finisher.finish(lane.loop.latent, *outputs, self._finishing)
        for name, buffer in lane.outputs.items():
            self._device.download(buffer, lane.host[name], self._finishing)
        lane.flying = Flight(batch, lane, self._device.record(self._finishing))
        return lane.flying

    def collect(self, flight: Flight) -> VolumeBatch:
        """Waits for a batch; ValueError where it was collected before or lost."""
        lane = flight.lane
        if lane.flying is not flight:
            raise ValueError("this batch was collected, or another one took its place")
        self._device.synchronize(flight.landed)
        lane.flying = None
        host = {name: values.copy() for name, values in lane.host.items()}
        return VolumeBatch(flight.batch, host["images"], host["labels"], host["counts"], host["failed"] != 0)


def _as_volume(slices: Buffer) -> Buffer:
    """(D, ...) as (1, D, ...)."""
    return slices.reshaped(1, *slices.shape)
