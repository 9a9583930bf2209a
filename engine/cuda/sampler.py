"""Requests into volumes on a device: the counterpart of `loop.VolumeSampler` where the whole loop runs there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..bundle.load import Bundle
from ..sampling.decoding import NOT_FINITE, image_fault
from ..sampling.plan import sampling_plan
from ..sampling.small_components import drop_small_components
from ..sampling.types import LoopKind, SampleRequest, SamplingOptions, Volume, check_options
from .loop import LoopBatch
from .loops import DeviceLoops
from .volumes import LANES, Flight


class DeviceSampler:
    """Makes volumes in batches of one fixed shape, two of them in flight; sample k sits in slot k % batch_size.

    Raises:
        UsageError: options that the bundle's schedule or the sampler cannot follow.
        DeviceMemoryError: the batch does not fit.
        BackendUnavailableError: the device, its networks or the kernels cannot be had.
    """

    in_flight = LANES

    def __init__(self, bundle: Bundle, loops: DeviceLoops, options: SamplingOptions) -> None:
        check_options(options)
        self.options = options
        self._columns = len(bundle.manifest.condition_columns)
        self._plan = sampling_plan(bundle.manifest.schedule, options)
        self._loop = loops.open(options.batch_size, self._plan)
        self.loop: LoopKind = self._loop.kind
        self.reason = self._loop.reason

    def start(
        self, requests: Sequence[SampleRequest], on_step: Callable[[], None] | None = None
    ) -> Callable[[], list[Volume]]:
        """Queues the requests; see `pipeline.Sampler`. `on_step` is called once: a graph is not interrupted."""
        if on_step is not None:
            on_step()
        with self._loop.device.current():
            flight = self._loop.volumes.start(self._batch(requests), self._plan)
        return partial(self._collect, requests, flight)

    def _batch(self, requests: Sequence[SampleRequest]) -> LoopBatch:
        """The requests in their slots; the other slots are padding."""
        size = self.options.batch_size
        samples, attempts = np.zeros(size, np.uint64), np.zeros(size, np.int64)
        condition, mask = np.zeros((size, self._columns), np.float32), np.zeros(size, np.float32)
        for request in requests:
            slot = request.number % size
            samples[slot], attempts[slot] = request.number, request.attempt
            condition[slot], mask[slot] = request.condition, 1.0
        return LoopBatch(self.options.seed, samples, attempts, condition, mask)

    def _collect(self, requests: Sequence[SampleRequest], flight: Flight) -> list[Volume]:
        with self._loop.device.current():
            made = self._loop.volumes.collect(flight)
        volumes = []
        for request in requests:
            slot = request.number % self.options.batch_size
            image = made.images[slot]
            fault = NOT_FINITE if made.failed[slot] else image_fault(image)
            label = drop_small_components(made.labels[slot])
            volumes.append(Volume(request.number, request.attempt, image, label, fault))
        return volumes
