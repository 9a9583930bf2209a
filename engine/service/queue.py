"""Jobs that wait and jobs that run: clients take turns, each job in a process of its own, lifetimes are kept."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..bundle.load import Bundle
from ..errors import SbldmError
from ..processes import start_process
from .child import Setup, work
from .job import RUN_NAME, Job, State
from .settings import Settings
from .store import Store

_END_S = 6.0  # that a job's process has to end once it is told to
_REFUSED_S = 5.0  # that no job is started after the machine refused something
_LOOK_S = 30.0  # between two looks for jobs whose time is over
_log = logging.getLogger("sbldm")
Event = Callable[..., None]


@dataclass
class _Running:
    process: Any
    connection: Any  # of multiprocessing
    thread: threading.Thread | None = None
    cancelled: bool = False
    told: tuple[str, Any] = ("died", None)  # how it ended, in its own words


class Queue:
    """Runs the queued jobs of a store, `settings.at_once` at a time; `event` is told of starts and ends."""

    def __init__(self, store: Store, settings: Settings, models: Mapping[str, Bundle], event: Event) -> None:
        self.store, self.settings, self.models, self._event = store, settings, models, event
        self.made = 0  # samples, since the start of the service
        self._changed = threading.Condition()
        self._waiting: dict[str, deque[str]] = {}  # ids by client, in the order of their turns
        self._running: dict[str, _Running] = {}
        self._stopping = False
        self._not_before = 0.0  # of the next start, by the monotonic clock
        self._context = multiprocessing.get_context("spawn")
        self._thread = threading.Thread(target=self._serve, name="jobs", daemon=True)

    def start(self) -> None:
        """Take up what a service before left queued or running, and begin."""
        for job in self.store.all():
            if job.state == "running":
                self.store.change(job.id, lambda job: job.with_(state="queued"))
            if job.state in ("queued", "running"):
                self._waiting.setdefault(job.client, deque()).append(job.id)
        self._thread.start()

    def stop(self) -> None:
        """End the jobs that run, which stay queued for the next start; returns when their processes have ended."""
        with self._changed:
            self._stopping = True
            running = list(self._running.values())
            self._changed.notify_all()
        give_up = time.monotonic() + _END_S / 2
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.join(max(give_up - time.monotonic(), 0))
            job.process.kill()
            if job.thread is not None:
                job.thread.join(1)
        self._thread.join(1)

    def add(self, job: Job) -> Job | None:
        """Queue a job that waits; None where it does not any more."""
        changed = self.store.change(job.id, lambda job: job.with_(state="queued") if job.state == "waiting" else None)
        if changed is not None:
            with self._changed:
                self._waiting.setdefault(job.client, deque()).append(job.id)
                self._changed.notify_all()
        return changed

    def cancel(self, job: Job) -> Job | None:
        """End a job that has not ended; what was made of it stays until it is removed. None where it has ended."""
        with self._changed:
            running = self._running.get(job.id)
            if running is not None:
                running.cancelled = True
                running.process.terminate()
                threading.Timer(_END_S, running.process.kill).start()
                return job
            if job.id in self._waiting.get(job.client, ()):
                self._waiting[job.client].remove(job.id)
        return self.store.change(
            job.id, lambda job: job.with_(state="cancelled") if job.state in ("waiting", "queued") else None
        )

    def _serve(self) -> None:
        looked = -_LOOK_S
        while True:
            with self._changed:
                while not self._stopping and time.monotonic() - looked < _LOOK_S and not self._may_start():
                    self._changed.wait(1.0)
                if self._stopping:
                    return
                if self._may_start():
                    self._start_next()
            if time.monotonic() - looked >= _LOOK_S:
                looked = time.monotonic()
                self.remove_overdue(time.time())

    def _may_start(self) -> bool:
        is_free = len(self._running) < self.settings.at_once
        return bool(self._waiting) and is_free and time.monotonic() >= self._not_before

    def _start_next(self) -> None:
        """Start the oldest job of the client whose turn it is; its next turn comes after everybody else's."""
        client = next(iter(self._waiting))
        ids = self._waiting.pop(client)
        job_id = ids.popleft()
        if ids:
            self._waiting[client] = ids
        try:
            self._start(job_id)
        except OSError as error:
            self._try_later(client, job_id, error)

    def _try_later(self, client: str, job_id: str, error: OSError) -> None:
        """Put a job back whose start or end the machine refuses: a full disk, no process to be had."""
        _log.error(f"job {job_id}: {error.strerror or type(error).__name__}; it is tried again")
        self._not_before = time.monotonic() + _REFUSED_S
        self._waiting.setdefault(client, deque()).appendleft(job_id)

    def _start(self, job_id: str) -> None:
        """Start the process of a job; the caller holds `_changed`."""
        job = self.store.change(job_id, lambda job: job.with_(state="running", starts=job.starts + 1))
        if job is None:
            return
        bundle = self.models.get(job.model)
        if bundle is None:
            self._end(job, "failed", reason=f"the service has no model {job.model} any more")
            return
        ours, theirs = self._context.Pipe()
        setup = Setup(
            job, self.store.path(job), bundle.path, bundle.sha256, self.settings.samples, self.settings.threads
        )
        running = _Running(start_process(self._context, work, (setup, theirs)), ours)
        theirs.close()
        self._running[job.id] = running
        self._event("job started", job=job.id, client=job.client, kind=job.kind)
        running.thread = threading.Thread(target=self._follow, args=(job, running), name=f"job-{job.id}", daemon=True)
        running.thread.start()

    def _follow(self, job: Job, running: _Running) -> None:
        """Hear what a job's process tells until it ends."""
        while True:
            try:
                kind, content = running.connection.recv()
            except (EOFError, OSError):
                break
            if kind == "opened":
                done, rest = content
                self.store.change(job.id, lambda job, d=done, c=done + rest: job.with_(done=d, count=c, faulty=0))
            elif kind == "sample":
                self.made += 1
                name = "done" if content else "faulty"
                self.store.change(job.id, lambda job, n=name: job.with_(**{n: getattr(job, n) + 1}))
            else:
                running.told = (kind, content)
        running.process.join()
        running.connection.close()
        with self._changed:
            del self._running[job.id]
            try:
                self._settle(job, running)
            except OSError as error:
                self._try_later(job.client, job.id, error)
            self._changed.notify_all()

    def _settle(self, job: Job, running: _Running) -> None:
        """What becomes of a job whose process has ended."""
        kind, content = running.told
        if running.cancelled and kind != "ended":
            self._end(job, "cancelled")
        elif kind == "ended":
            sound, faulty = content
            self._end(job, "incomplete" if faulty else "done", done=sound, faulty=faulty)
        elif kind == "failed":
            fault, reason = content
            _log.error(f"job {job.id} failed: {fault}")
            self._end(job, "failed", reason=reason)
        elif self._stopping or kind == "stopped":
            self._again(job, starts=-1)
        elif (now := self.store.get(job.client, job.id)) is not None and now.starts >= self.settings.starts:
            self._end(job, "failed", reason=f"its process died {now.starts} times; is memory short?")
        else:
            _log.error(f"the process of job {job.id} died (exit status {running.process.exitcode})")
            self._again(job, starts=0)

    def _again(self, job: Job, starts: int) -> None:
        self.store.change(job.id, lambda job: job.with_(state="queued", starts=job.starts + starts))
        self._waiting.setdefault(job.client, deque()).appendleft(job.id)

    def _end(self, job: Job, state: State, **changes: Any) -> None:
        size = self._bytes_of(job)
        ended = self.store.change(job.id, lambda job: job.with_(state=state, result_bytes=size, **changes))
        if ended is not None:
            self._event(f"job {state}", job=job.id, client=job.client, samples=ended.done, faulty=ended.faulty)

    def _bytes_of(self, job: Job) -> int:
        run = self.store.path(job) / RUN_NAME
        return sum(path.lstat().st_size for path in run.rglob("*") if path.is_file()) if run.is_dir() else 0

    def remove_overdue(self, now: float) -> None:
        """Remove jobs that ended too long ago, and those whose uploads did not come."""
        for job in self.store.all():
            age = now - job.changed
            if (job.has_ended and age > self.settings.keep_s) or (
                job.state == "waiting" and age > self.settings.upload_s
            ):
                try:
                    self.store.remove(job)
                    self._event("job removed", job=job.id, client=job.client, age_s=round(age))
                except (OSError, SbldmError) as error:
                    _log.error(f"job {job.id}: cannot be removed ({type(error).__name__}); it is tried again")
