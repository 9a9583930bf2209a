"""Requests into volumes on a device: the counterpart of `HostLoop` where the whole loop runs there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..bundle.load import Bundle
from ..processor import available_threads
from ..sampling.batch import Batch
from ..sampling.decoding import finish_volume
from ..sampling.plan import sampling_plan
from ..sampling.types import LoopKind, SampleRequest, SamplingOptions, Volume
from .loop import LoopBatch, loop_batch
from .marks import marked
from .volume_loops import VolumeLoops
from .volumes import BUFFERS, StartedBatch

_FINISHERS = 4
"""Threads that look for small components, so that the one that feeds the device is not what a GPU waits for."""


class CudaLoop:
    """Makes volumes in batches of one fixed shape, two of them in flight; sample k sits in slot k % batch_size.

    Raises:
        UsageError: options that the bundle's schedule or the sampler cannot follow.
        DeviceMemoryError: the batch does not fit.
        BackendUnavailableError: the device, its networks or the kernels cannot be had.
    """

    in_flight = BUFFERS

    def __init__(self, bundle: Bundle, loops: VolumeLoops, options: SamplingOptions) -> None:
        self.options = options
        self._columns = len(bundle.manifest.condition_columns)
        self._plan = sampling_plan(bundle.manifest.schedule, options)
        self._loop = loops.open(options.batch_size, self._plan)
        self._finishers = ThreadPoolExecutor(min(_FINISHERS, available_threads()), "finisher")
        self.kind: LoopKind = self._loop.kind
        self.reason = self._loop.reason

    def start(
        self, requests: Sequence[SampleRequest], on_step: Callable[[], None] | None = None
    ) -> Callable[[], list[Volume]]:
        """Queues the requests; see `BatchLoop`. `on_step` is called once: a graph is not interrupted."""
        if on_step is not None:
            on_step()
        with self._loop.device.current():
            started = self._loop.work.start(self._batch(requests), self._plan)
        return partial(self._collect, requests, started)

    def latents(self, requests: Sequence[SampleRequest]) -> NDArray[np.float32]:
        """The clean latents (N, ...) of the requests, in their order; nothing else may be in flight."""
        with self._loop.device.current():
            started = self._loop.work.start(self._batch(requests), self._plan)
            found = self._loop.work.latents(started)
            self._loop.work.collect(started)
        return found[[request.number % self.options.batch_size for request in requests]]

    def _batch(self, requests: Sequence[SampleRequest]) -> LoopBatch:
        batch = Batch(requests, self.options.batch_size, self.options.seed)
        return loop_batch(batch, {"condition": batch.filled((self._columns,), lambda request: request.condition)})

    def _collect(self, requests: Sequence[SampleRequest], started: StartedBatch) -> list[Volume]:
        with self._loop.device.current():
            made = self._loop.work.collect(started)

        def finished(request: SampleRequest) -> Volume:
            slot = request.number % self.options.batch_size
            finite = not made.failed[slot]
            return finish_volume(request, made.images[slot], made.labels[slot], made.statistics[slot], finite)

        with marked("small components"):
            return list(self._finishers.map(finished, requests))
