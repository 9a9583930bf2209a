"""Several processes on one run: groups are handed out one by one, a worker that dies is replaced, none outlives us."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ...kernels.launcher import GpuUnavailableError, gpu_count
from ..bundle.load import load_bundle
from ..copies import CopyReference
from ..errors import (
    BackendUnavailableError,
    DeviceMemoryError,
    IncompleteRunError,
    InvalidInputError,
    SbldmError,
    UsageError,
)
from ..portable import end_signals, keep_freed_memory
from ..processes import end_processes, end_with_parent, start_process
from ..telemetry import Figures, Telemetry
from .description import RunDescription
from .directory import disk_faults
from .ledger import SampleRecord
from .open_loop import reopen_loop
from .pipeline import Pipeline
from .request import Source
from .requests import SampleTask
from .time_limit import SAMPLE_TIMEOUT_S
from .writer import Finisher

_log = logging.getLogger("sbldm")
Group = list[SampleTask]
_ERRORS: dict[str, type[SbldmError]] = {
    kind.__name__: kind
    for kind in (
        SbldmError,
        UsageError,
        InvalidInputError,
        BackendUnavailableError,
        DeviceMemoryError,
        IncompleteRunError,
    )
}
_AHEAD = 2  # groups a worker holds: one being sampled, one waiting
_MAX_DEATHS = 2  # of workers that held a sample, before it counts as failed; one in company is tried alone first
_MAX_DEATHS_IN_A_ROW = 8
_MAX_STARTS = 2  # that fail before any worker was ready
BEAT_S = 2.0  # between two signs of life of a worker
SILENT_S = 60.0  # without one, after which it is ended: it is stopped, or its machine is
START_S = 1800.0  # that loading a model may take
_END_S = 1.0  # that a worker has to end when it is told to
_PAUSED_S = 5.0  # between two looks at the workers: longer, and this process was stopped itself


@dataclass(frozen=True)
class WorkerSetup:
    """All a worker needs to make the samples of a run."""

    bundle: Path
    directory: Path
    run: RunDescription
    device: str
    source: Source | None
    sample_timeout: float = SAMPLE_TIMEOUT_S  # seconds
    exclude_copies: CopyReference | None = None

    def time_for(self, samples: int) -> float:
        """Seconds that a batch of so many samples may take, redraws included."""
        options = self.run.options
        redrawn = options.reject is not None or self.exclude_copies is not None
        return self.sample_timeout * samples * (1 + options.attempts if redrawn else 1)


@dataclass
class _Worker:
    number: int  # from 0; kept by the worker that replaces it
    process: Any
    connection: Any  # the parent's end of a pipe
    groups: list[dict[int, SampleTask]] = field(default_factory=list)  # handed out and not yet recorded, by sample
    ready: bool = False  # its model is at hand
    heard: float = field(default_factory=time.monotonic)  # when it last gave a sign of life
    moved: float = field(default_factory=time.monotonic)  # when it last was ready, began or recorded something
    alone: bool = False  # it makes a group that was held when a worker died, and nothing else meanwhile


class WorkerPool:
    """`count` processes on one run; `record` and `telemetry` are used in the calling thread.

    Where the run is on CUDA and its setup names no GPU, worker i takes GPU i modulo their number.
    """

    def __init__(
        self, setup: WorkerSetup, count: int, record: Callable[[SampleRecord], None], telemetry: Telemetry
    ) -> None:
        self._setup, self.setups = setup, _setups(setup, count)
        self._record, self._telemetry = record, telemetry
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._deaths: Counter[int] = Counter()  # of workers that held the sample
        self._deaths_in_a_row = 0
        self._never_ready = True  # of all workers so far
        self._suspects: deque[Group] = deque()  # held by workers that died
        self._failed: list[SampleTask] = []

    def run(self, groups: Iterator[Group], stop: threading.Event) -> list[SampleTask]:
        """Make every group, or stop early when `stop` is set; returns the tasks that killed their workers.

        Raises:
            SbldmError: what a worker raised: a full disk, a backend that cannot be had.
        """
        try:
            self._workers = [self._start(number) for number in range(len(self.setups))]
            looked = time.monotonic()
            while not stop.is_set():
                self._hand_out(groups)
                if not any(worker.groups for worker in self._workers):
                    break
                self._serve()
                looked = self._end_overdue(looked)
            return self._failed
        finally:
            self._end()

    def _start(self, number: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = start_process(self._context, _work, (self.setups[number], theirs))
        theirs.close()
        return _Worker(number, process, ours)

    def _hand_out(self, groups: Iterator[Group]) -> None:
        for _ in range(_AHEAD):
            for worker in self._workers:
                group = self._next(worker, groups)
                if group is not None:
                    if not worker.groups:
                        worker.moved = time.monotonic()
                    worker.groups.append({task.sample: task for task in group})
                    with suppress(BrokenPipeError, ConnectionResetError):  # the dead are noticed by their closed pipe
                        worker.connection.send(group)

    def _next(self, worker: _Worker, groups: Iterator[Group]) -> Group | None:
        """What a worker gets now: a suspect only when it has nothing else, and then nothing beside it."""
        if not worker.groups:
            worker.alone = bool(self._suspects)
            return self._suspects.popleft() if self._suspects else next(groups, None)
        return None if worker.alone or len(worker.groups) == _AHEAD else next(groups, None)

    def _serve(self) -> None:
        by_source = {worker.connection: worker for worker in self._workers}
        for source in wait(list(by_source), timeout=0.5):
            worker = by_source[source]  # type: ignore[index]
            try:
                kind, content = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                self._replace(worker)
                continue
            worker.heard = time.monotonic()
            if kind == "error":
                name, text = content
                raise _ERRORS.get(name, SbldmError)(text)
            if kind == "ready":
                worker.ready, worker.moved, self._never_ready = True, worker.heard, False
            elif kind == "record":
                worker.moved = worker.heard
                self._receive(worker, *content)

    def _end_overdue(self, looked: float) -> float:
        """End and replace the workers that are silent or take too long; returns the time of this look."""
        now = time.monotonic()
        if now - looked > _PAUSED_S:  # the workers' signs of life wait to be read
            for worker in self._workers:
                worker.heard, worker.moved = worker.heard + now - looked, worker.moved + now - looked
            return now
        for worker in self._workers:
            limit = self._setup.time_for(len(worker.groups[0])) if worker.ready and worker.groups else START_S
            busy = worker.groups or not worker.ready
            if now - worker.heard > SILENT_S or (busy and now - worker.moved > limit):
                worker.process.kill()
                self._replace(worker)
        return now

    def _receive(self, worker: _Worker, record: SampleRecord, figures: Figures) -> None:
        self._deaths_in_a_row = 0
        self._record(record)
        self._telemetry.absorb(figures)
        self._telemetry.count("done" if record.fault is None else "failed")
        for group in worker.groups:
            group.pop(record.sample, None)
        worker.groups = [group for group in worker.groups if group]

    def _replace(self, worker: _Worker) -> None:
        worker.process.join()
        worker.connection.close()
        self._telemetry.count("lost_workers")
        self._deaths_in_a_row += 1
        _log.warning(f"worker {worker.number} ended (exit status {worker.process.exitcode}) and is replaced")
        if self._never_ready and self._deaths_in_a_row >= _MAX_STARTS:
            raise IncompleteRunError(
                f"worker processes end before they are ready (exit status {worker.process.exitcode}): no sample is at "
                "fault; is memory short, or may this program start no processes? Try --workers 1"
            )
        if self._deaths_in_a_row > _MAX_DEATHS_IN_A_ROW:
            raise IncompleteRunError(
                f"{self._deaths_in_a_row} workers died one after another (exit status {worker.process.exitcode}); "
                "is memory short? Go on with --resume and fewer --workers"
            )
        for group in worker.groups:
            tasks = list(group.values())
            self._deaths.update(group.keys())
            if self._deaths[tasks[0].sample] < _MAX_DEATHS:
                self._suspects.append(tasks)
            elif len(tasks) > 1:
                self._suspects.extend([task] for task in tasks)  # find the one that kills
            else:
                self._failed.extend(tasks)
        self._workers[worker.number] = self._start(worker.number)

    def _end(self) -> None:
        end_processes([worker.process for worker in self._workers], _END_S)
        for worker in self._workers:
            worker.connection.close()


def _setups(setup: WorkerSetup, count: int) -> list[WorkerSetup]:
    """What each worker is given; BackendUnavailableError where a run on CUDA finds no GPU."""
    if setup.run.resolved.device != "cuda" or ":" in setup.device:
        return [setup] * count
    try:
        gpus = gpu_count()
    except GpuUnavailableError as error:
        raise BackendUnavailableError(str(error)) from error
    return [replace(setup, device=f"cuda:{number % gpus}") for number in range(count)]


def make_pipeline(setup: WorkerSetup, telemetry: Telemetry, record: Callable[[SampleRecord], None]) -> Pipeline:
    """The pipeline of a worker, which loads bundle and backend itself, in a process of its own.

    Raises:
        InvalidInputError: the bundle at this place is not the run's.
        SbldmError: see `reopen_loop`.
    """
    keep_freed_memory()
    bundle = load_bundle(setup.bundle)
    if bundle.sha256 != setup.run.bundle.sha256:
        raise InvalidInputError(f"{setup.bundle}: is not the bundle that the run was started with")
    loop = reopen_loop(bundle, setup.run, setup.device, setup.source)
    finisher = Finisher(setup.directory, setup.run, bundle.manifest, telemetry, setup.source, setup.exclude_copies)
    return Pipeline(loop, finisher, record)


def _work(setup: WorkerSetup, connection: Connection) -> None:
    """Life of a worker: receives groups, sends ("record", (record, figures)) for each sample, or ("error", ...).

    It also sends ("ready", None) once, and ("beat", None) all the time.
    """
    for number in end_signals():  # the parent ends us by TERM, whatever it was sent itself
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    end_with_parent()
    telemetry, sending = Telemetry(), threading.Lock()

    def send(kind: str, content: Any = None) -> None:
        with sending:
            connection.send((kind, content))

    def record(made: SampleRecord) -> None:
        send("record", (made, telemetry.take()))

    threading.Thread(target=_beat, args=(send,), daemon=True).start()
    try:
        with disk_faults(setup.directory), make_pipeline(setup, telemetry, record) as pipeline:
            send("ready")
            while True:
                if not connection.poll():
                    pipeline.drain()
                pipeline.feed(connection.recv())
    except EOFError:
        return
    except SbldmError as error:
        send("error", (type(error).__name__, str(error)))
    except MemoryError:
        send("error", ("IncompleteRunError", "no memory left in a worker; go on with --resume and fewer --workers"))
    except Exception as error:  # noqa: BLE001 - the border of the process: the parent reports it
        send("error", ("SbldmError", f"unexpected {type(error).__name__} in a worker: {error}"))


def _beat(send: Callable[[str], None]) -> None:
    with suppress(OSError):  # the parent is gone, and this process will be
        while True:
            send("beat")
            time.sleep(BEAT_S)
