"""Sampling in the calling thread while earlier volumes are measured, compressed and written in others; bounded.

A group (the samples of one batch) goes in with `feed`; `drain` waits for all that are in flight. Volumes that
`--reject` refuses are drawn again, before the next group.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .conditions import normalise
from .finish import Candidate, Finisher
from .ledger import SampleRecord
from .loop import SampleRequest, Volume
from .plan import SampleTask

MAX_WRITERS = 8


class Sampler(Protocol):
    """What the pipeline needs of `engine.loop.VolumeSampler`."""

    def latents(self, requests: Sequence[SampleRequest]) -> NDArray[np.float32]:
        """Denoised latents of one group."""
        ...

    def decode(self, requests: Sequence[SampleRequest], latents: NDArray[np.float32]) -> list[Volume]:
        """The volumes of these latents."""
        ...


class Pipeline:
    """One sampler and its writer threads; `record` is called from those threads, one call at a time."""

    def __init__(
        self,
        sampler: Sampler,
        finisher: Finisher,
        record: Callable[[SampleRecord], None],
        *,
        writers: int | None = None,
    ) -> None:
        self._sampler, self._finisher, self._record = sampler, finisher, record
        self._columns = finisher.bundle.condition_columns
        workers = writers or min(MAX_WRITERS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(workers, "writer")
        self._slots = threading.BoundedSemaphore(2 * workers)
        self._record_lock = threading.Lock()
        self._running: set[Future[None]] = set()
        self._refused: deque[SampleTask] = deque()  # draws still to be made
        self._best: dict[int, Candidate] = {}  # of samples that were refused, by number

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)

    def feed(self, group: list[SampleTask]) -> None:
        """Sample a group and hand its volumes to the writers; raises what a writer raised, such as OSError."""
        self._redraw()
        self._sample(group)

    def drain(self) -> None:
        """Wait until everything that went in is recorded; raises what a writer raised."""
        while self._running or self._refused:
            self._redraw()
            for future in list(self._running):
                future.result()
                self._running.discard(future)

    def _redraw(self) -> None:
        for future in [f for f in self._running if f.done()]:
            self._running.discard(future)
            future.result()
        while self._refused:
            self._sample([self._refused.popleft()])

    def _sample(self, group: list[SampleTask]) -> None:
        telemetry = self._finisher.telemetry
        rows = normalise(np.array([task.requested for task in group]), self._columns)
        requests = [SampleRequest(t.sample, t.attempt, row) for t, row in zip(group, rows, strict=True)]
        with telemetry.stage("sample"):
            latents = self._sampler.latents(requests)
        with telemetry.stage("decode"):
            volumes = self._sampler.decode(requests, latents)
        for task, volume in zip(group, volumes, strict=True):
            self._slots.acquire()
            telemetry.queue_depth(1)
            self._running.add(self._pool.submit(self._finish, task, volume))

    def _finish(self, task: SampleTask, volume: Volume) -> None:
        try:
            self._judge(task, volume)
        finally:
            self._finisher.telemetry.queue_depth(-1)
            self._slots.release()

    def _judge(self, task: SampleTask, volume: Volume) -> None:
        options = self._finisher.run.options
        best = self._best.pop(task.sample, None)
        accepted = False
        if volume.fault is None:
            candidate = self._finisher.measure(task, volume)
            accepted = self._finisher.accepts(candidate)
            best = candidate if best is None or candidate.miss < best.miss else best
        if not accepted and options.reject is not None and task.attempt < options.attempts:
            if best is not None:
                self._best[task.sample] = best
            self._finisher.telemetry.count("redrawn")
            self._refused.append(replace(task, attempt=task.attempt + 1))
            return
        record = (
            self._finisher.write(best) if best is not None else self._finisher.failed(task, volume.fault or "refused")
        )
        with self._record_lock:
            self._record(record)
        self._finisher.telemetry.count("done" if record.fault is None else "failed")
