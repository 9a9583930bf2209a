"""Sampling in the calling thread while earlier volumes are measured, compressed and written in others; bounded.

A group (the samples of one batch) goes in with `feed`; `drain` waits for all that are in flight. Volumes that
`--reject` or
`--exclude-copies` refuses are drawn again, before the next group. What the loop runs on is not known here.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

from ..model_runs import RunTerminatedError
from ..processor import available_threads
from ..sampling.ahead import AheadLoop
from ..sampling.types import BatchLoop, Volume
from .ledger import SampleRecord
from .redraw import Redraws
from .requests import SampleTask, sample_requests
from .time_limit import TimeLimit
from .writer import COPY, Candidate, Finisher

MAX_WRITERS = 8
TOOK_TOO_LONG = "took longer than --sample-timeout, twice"

_Volumes = list[Volume] | list[Future[Volume]]  # there, or still made by other processes
T = TypeVar("T")


class Pipeline:
    """One loop and its writer threads; `record` is called from those threads, one call at a time."""

    def __init__(
        self,
        loop: BatchLoop | AheadLoop,
        finisher: Finisher,
        record: Callable[[SampleRecord], None],
        *,
        writers: int | None = None,
        limit: TimeLimit | None = None,
    ) -> None:
        self._loop, self._finisher, self._record = loop, finisher, record
        self._columns = finisher.bundle.condition_columns
        workers = writers or min(MAX_WRITERS, available_threads())
        self._pool = ThreadPoolExecutor(workers, "writer")
        self._slots = threading.BoundedSemaphore(2 * workers)
        self._record_lock = threading.Lock()
        self._running: set[Future[None]] = set()
        self._flying: deque[tuple[list[SampleTask], Callable[[], _Volumes]]] = deque()
        self._refused: deque[SampleTask] = deque()  # draws still to be made
        self._limit = limit
        self._late: set[int] = set()  # samples that took too long once
        self._redraws: Redraws[Candidate | str] = Redraws(finisher.run.options)  # a faulty draw is its fault

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
        while self._running or self._refused or self._flying:
            self._redraw()
            while self._flying:
                self._collect()
            for future in list(self._running):
                future.result()
                self._running.discard(future)

    def _redraw(self) -> None:
        for future in [f for f in self._running if f.done()]:
            self._running.discard(future)
            future.result()
        while self._refused:
            self._sample(self._next_redraws())

    def _next_redraws(self) -> list[SampleTask]:
        """The oldest refused task and those that have another slot of the batch; alone if it took too long before."""
        if self._refused[0].sample in self._late:
            return [self._refused.popleft()]
        size, by_slot = self._finisher.run.resolved.batch_size, dict[int, SampleTask]()
        waiting = [self._refused.popleft() for _ in range(len(self._refused))]
        later = [task for task in waiting if by_slot.setdefault(task.sample % size, task) is not task]
        self._refused.extendleft(reversed(later))
        return list(by_slot.values())

    def _sample(self, group: list[SampleTask]) -> None:
        with self._finisher.telemetry.stage("sample"):
            requests = sample_requests(group, self._columns)
            collect = self._timed(group, lambda: self._loop.start(requests))
        if collect is not None:
            self._flying.append((group, collect))
        while len(self._flying) >= self._loop.in_flight:
            self._collect()

    def _collect(self) -> None:
        telemetry = self._finisher.telemetry
        group, collect = self._flying.popleft()
        with telemetry.stage("decode"):
            volumes = self._timed(group, collect)
        if volumes is None:
            return
        for task, volume in zip(group, volumes, strict=True):
            self._slots.acquire()
            telemetry.queue_depth(1)
            self._running.add(self._pool.submit(self._finish, task, volume))

    def _timed(self, group: list[SampleTask], work: Callable[[], T]) -> T | None:
        """What `work` gives; None where it took too long: the samples are tried once more, each alone, then failed."""
        if self._limit is None:
            return work()
        with self._limit.on([task.sample for task in group]) as expired:
            try:
                return work()
            except RunTerminatedError:
                if not expired.is_set():
                    raise
        for task in group:
            if task.sample in self._late:
                self._told(self._finisher.failed(task, TOOK_TOO_LONG))
            else:
                self._late.add(task.sample)
                self._refused.append(task)
        return None

    def _finish(self, task: SampleTask, volume: Volume | Future[Volume]) -> None:
        try:
            self._judge(task, volume.result() if isinstance(volume, Future) else volume)
        finally:
            self._finisher.telemetry.queue_depth(-1)
            self._slots.release()

    def _judge(self, task: SampleTask, volume: Volume) -> None:
        draw = self._finisher.measure(task, volume)
        miss = None if isinstance(draw, str) else draw.miss
        kept = self._redraws.judge(task, draw, miss, is_copy=draw == COPY)
        if isinstance(kept, SampleTask):
            self._finisher.telemetry.count("redrawn")
            self._refused.append(kept)
            return
        record = self._finisher.failed(task, kept) if isinstance(kept, str) else self._finisher.write(kept)
        self._told(record)

    def _told(self, record: SampleRecord) -> None:
        with self._record_lock:
            self._record(record)
        self._finisher.telemetry.count("done" if record.fault is None else "failed")
