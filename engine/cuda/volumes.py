"""From conditions to finished volumes on a device, double-buffered: one batch is sampled while the other is decoded,
assembled, looked over and copied out through pinned memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.calls import (
    VolumeShape,
    assemble_call,
    clip_image_call,
    one_hot_call,
    statistics_blocks_count,
    statistics_calls,
)
from ...kernels.statistics import COLUMNS
from ..sampling.plan import SamplingPlan
from .device import Buffer, Device, DeviceNetwork
from .loop import LoopBatch, LoopShape, SamplingLoop, blank_batch
from .marks import marked

BUFFERS = 2
"""Batches that may be on the device at a time."""


@dataclass(frozen=True)
class VolumeBatch:
    """A finished batch in host memory of its own; what stands in slots that are padding means nothing."""

    batch: LoopBatch
    images: NDArray[np.int16]  # (N, M, X, Y, Z)
    labels: NDArray[np.uint8]  # (N, X, Y, Z)
    statistics: NDArray[np.int32]  # (N, M, 4), columns of kernels.statistics
    failed: NDArray[np.bool_]  # (N,): latent or volume was not finite; the sample means nothing


@dataclass(frozen=True)
class DecodingShape:
    """What decoding needs to know: the volumes' sizes, the slice latent (c, h, w), the background threshold."""

    volume: VolumeShape
    slice_latent: tuple[int, int, int]
    threshold: float
    at_once: int  # slices a decoder run; the volume's are a multiple of them


class VolumeDecoder:
    """Latents -> volumes, one sample at a time: aggregator, decoder, refiner if there is one, `assemble`, statistics.

    `components` maps the bundle's names. ValueError where one is missing.
    """

    def __init__(self, device: Device, components: Mapping[str, DeviceNetwork], shape: DecodingShape) -> None:
        self._device = device
        self._components = components
        self._shape = shape
        if not {"aggregator", "decoder"} <= components.keys():
            raise ValueError(f"the loop needs an aggregator and a decoder, not only {', '.join(components)}")
        v = shape.volume
        x, y, depth = v.shape
        self._slices = device.allocate((1, depth, *shape.slice_latent), "float32")
        self._image = device.allocate((depth, v.modalities, x, y), "float32")
        self._logits = device.allocate((depth, v.classes, x, y), "float32")
        # each an allocation of its own: TensorRT takes addresses that are multiples of 256 bytes
        self._positions = [device.allocate((shape.at_once,), "int64") for _ in range(0, depth, shape.at_once)]
        self._partial = device.allocate((v.modalities, statistics_blocks_count(v.voxels), len(COLUMNS)), "int32")
        if "refiner" in components:
            self._one_hot = device.allocate(self._logits.shape, "float32")
            self._refined = device.allocate(self._image.shape, "float32")
        self._counted = device.pinned((depth,), "int64")
        self._counted[:] = np.arange(depth)

    def start(self, stream: Any) -> None:
        """Uploads the constants; once, before `decode`."""
        for buffer, values in zip(self._positions, np.split(self._counted, len(self._positions)), strict=True):
            self._device.upload(buffer, values, stream)

    def decode(self, latent: Buffer, outputs: Mapping[str, Buffer], slots: Iterable[int], stream: Any) -> None:
        """Queues the decoding of samples `slots` of `latent` (N, ...) into the buffers of a batch, each (N, ...).

        `failed` (N,) becomes 1 where a decoded value is not finite.
        """
        for n in slots:
            rows = {name: buffer.rows(n, n + 1) for name, buffer in outputs.items()}
            self._decode_one(latent.rows(n, n + 1), rows, stream)

    def _decode_one(self, latent: Buffer, outputs: Mapping[str, Buffer], stream: Any) -> None:
        v = self._shape.volume
        self._components["aggregator"].enqueue({"latent": latent}, {"slices": self._slices}, stream)
        slices = self._slices.reshaped(v.shape[2], *self._shape.slice_latent)
        for start, position in zip(range(0, v.shape[2], self._shape.at_once), self._positions, strict=True):
            part = (start, start + self._shape.at_once)
            told = {"latent": slices.rows(*part), "position": position}
            made = {"image": self._image.rows(*part), "label_logits": self._logits.rows(*part)}
            self._components["decoder"].enqueue(told, made, stream)
        image = self._refine(stream) if "refiner" in self._components else self._image
        images, labels, failed = (outputs[name].address for name in ("images", "labels", "failed"))
        call = assemble_call(
            v, 1, self._shape.threshold,
            image=image.address, logits=self._logits.address, images=images, labels=labels, failed=failed,
        )  # fmt: skip
        self._device.launch(call, stream)
        rows = outputs["statistics"].address
        for call in statistics_calls(v.voxels, v.modalities, values=images, partial=self._partial.address, rows=rows):
            self._device.launch(call, stream)

    def _refine(self, stream: Any) -> Buffer:
        logits, labels = self._logits.address, self._one_hot.address
        call = one_hot_call(self._shape.volume, self._logits.shape[0], logits=logits, labels=labels)
        self._device.launch(call, stream)
        self._device.launch(clip_image_call(prod(self._image.shape), image=self._image.address), stream)
        inputs = {"image": _as_volume(self._image), "label": _as_volume(self._one_hot)}
        self._components["refiner"].enqueue(inputs, {"refined": _as_volume(self._refined)}, stream)
        return self._refined


class _BatchBuffers:
    """One batch on the device: its loop, its outputs on the device, and pinned host memory for them."""

    def __init__(
        self, device: Device, denoiser: DeviceNetwork, loop: LoopShape, v: VolumeShape, use_graphs: bool
    ) -> None:
        self.loop = SamplingLoop(device, denoiser, loop, use_graphs)
        n = loop.samples
        self.outputs = {
            "images": device.allocate((n, v.modalities, *v.shape), "int16"),
            "labels": device.allocate((n, *v.shape), "uint8"),
            "statistics": device.allocate((n, v.modalities, len(COLUMNS)), "int32"),
            "failed": self.loop.failed,
        }
        self.host = {name: device.pinned(buffer.shape, buffer.dtype) for name, buffer in self.outputs.items()}
        self.started: StartedBatch | None = None


@dataclass(frozen=True, eq=False)
class StartedBatch:
    """A batch that was started; `VolumeGenerator.collect` takes it."""

    batch: LoopBatch
    buffers: _BatchBuffers
    done: Any  # event


class VolumeGenerator:
    """All memory of a run, allocated once; DeviceMemoryError where there is no room.

    `streams`: the denoiser's, and that of the other components.
    """

    def __init__(
        self,
        device: Device,
        components: Mapping[str, DeviceNetwork],
        loop: LoopShape,
        decoding: DecodingShape,
        streams: tuple[Any, Any],
        use_graphs: bool,
    ) -> None:
        self.shape = loop
        self._device = device
        rest = {name: component for name, component in components.items() if name != "denoiser"}
        self._decoder = VolumeDecoder(device, rest, decoding)
        denoiser, volume = components["denoiser"], decoding.volume
        both = [_BatchBuffers(device, denoiser, loop, volume, use_graphs) for _ in range(BUFFERS)]
        self._buffers = deque(both)  # the next one first
        self._sampling, self._decoding = streams
        self._decoder.start(self._decoding)

    def try_out(self, plan: SamplingPlan) -> None:
        """Makes batches of nothing with all buffers: networks are warm then, and graphs captured."""
        for _ in range(BUFFERS):
            self.collect(self.start(blank_batch(self.shape), plan))

    def start(self, batch: LoopBatch, plan: SamplingPlan) -> StartedBatch:
        """Queues a batch, from noise to copies in pinned memory; errors of `SamplingLoop.sample`.

        A batch that was started `BUFFERS` starts ago and not collected is lost.
        """
        buffers = self._buffers[0]
        self._buffers.rotate(-1)
        if buffers.started is not None:
            self._device.synchronize(buffers.started.done)
            buffers.started = None
        with marked("sampling queued"):
            buffers.loop.sample(batch, plan, self._sampling)
        with marked("decoding queued"):
            self._device.wait(self._decoding, self._device.record(self._sampling))
            slots = np.flatnonzero(batch.condition_mask).tolist()
            self._decoder.decode(buffers.loop.latent, buffers.outputs, slots, self._decoding)
            for name, buffer in buffers.outputs.items():
                self._device.download(buffer, buffers.host[name], self._decoding)
        buffers.started = StartedBatch(batch, buffers, self._device.record(self._decoding))
        return buffers.started

    def latents(self, started: StartedBatch) -> NDArray[np.float32]:
        """Waits for a batch, and gives its clean latents (N, ...)."""
        latent = started.buffers.loop.latent
        found = self._device.pinned(latent.shape, latent.dtype)
        self._device.download(latent, found, self._decoding)
        self._device.synchronize(self._device.record(self._decoding))
        return found

    def collect(self, started: StartedBatch) -> VolumeBatch:
        """Waits for a batch; ValueError where it was collected before or lost."""
        buffers = started.buffers
        if buffers.started is not started:
            raise ValueError("this batch was collected, or another one took its place")
        with marked("waiting for a batch"):
            self._device.synchronize(started.done)
        buffers.started = None
        host = {name: values.copy() for name, values in buffers.host.items()}
        return VolumeBatch(started.batch, host["images"], host["labels"], host["statistics"], host["failed"] != 0)


def _as_volume(slices: Buffer) -> Buffer:
    """(D, ...) as (1, D, ...)."""
    return slices.reshaped(1, *slices.shape)
