"""The jobs of a service: on disk, one folder each below their client's, and in memory for the list.

    DIR/service.json        marks the directory; DIR/service.lock is held while a service runs
    DIR/audit.jsonl         who made, ended and removed jobs
    DIR/token               of the service's one client, unless there is a file of tokens
    DIR/jobs/CLIENT/ID/     job.json, conditions.csv, inputs/, run/ (a run directory)

Everything is for its owner alone, and lies where a job's id, which this program made, and names of its own say.
"""

from __future__ import annotations

import bisect
import logging
import os
import re
import secrets
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SbldmError, UsageError
from ..files import make_directory
from ..folder import Folder
from ..locks import LockHeldError
from ..run.audit import append, check_chain
from ..run.description import RUN_NAME as RUN_JSON
from ..run.directory import disk_faults
from ..run.purge import purge_run
from .job import CONDITIONS_NAME, JOB_NAME, MAX_JOB_BYTES, RUN_NAME, STATES, Job, State, read_job
from .tokens import CLIENT

MARK_NAME, LOCK_NAME, JOBS_NAME = "service.json", "service.lock", "jobs"
MADE = "job made"  # event of the audit trail
_MARK = b'{"notice": "jobs of sbldm-engine serve", "schema_version": 1}\n'
_ID = re.compile(r"[0-9a-f]{32}")
_log = logging.getLogger("sbldm")


@dataclass(frozen=True)
class Reserved:
    """What a job may come to."""

    count: int | None  # samples; None while the masks are not counted
    bytes: int  # of its results, at most


class Store:
    """The jobs of one directory, which no other service has; safe to use from several threads.

    Raises:
        UsageError: the directory is not empty and no service's, another service runs on it, or it cannot be written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()  # of what is in memory: held for moments, never while the disk is waited for
        self._changing, self._telling = threading.Lock(), threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._numbers: defaultdict[tuple[str, State | None], list[int]] = defaultdict(list)  # of a client's jobs in a
        # state, and of all (None), sorted: a page costs what is on it
        self._ids: dict[int, str] = {}  # by number
        self._next = 1
        self._bytes: Counter[str] = Counter()  # by client
        self._opened = ExitStack()
        with disk_faults(root, started=False):
            if root.is_dir() and not (root / MARK_NAME).exists() and any(root.iterdir()):
                raise UsageError(f"--jobs {root}: holds files and is no service's; give a new or empty directory")
            make_directory(root, 0o700)
            with self._opened:
                self.folder = self._opened.enter_context(Folder(root, private=True))
                self._opened.callback(self._hold().close)
                self.folder.create(MARK_NAME, _MARK)
                self._read()
                self._opened = self._opened.pop_all()

    def close(self) -> None:
        """Give the directory back."""
        self._opened.close()

    def path(self, job: Job) -> Path:
        """The folder of a job."""
        return self.root / _place(job)

    def get(self, client: str, job_id: str) -> Job | None:
        """A client's job; None where it has none of this id."""
        with self._lock:
            job = self._jobs.get(job_id)
        return job if job is not None and job.client == client else None

    def newest(self, client: str, before: int | None, limit: int, state: State | None) -> list[Job]:
        """A client's jobs with numbers below `before`, in `state` where one is given, the newest first."""
        with self._lock:
            numbers = self._numbers.get((client, state), [])
            end = len(numbers) if before is None else bisect.bisect_left(numbers, before)
            return [self._jobs[self._ids[number]] for number in reversed(numbers[max(end - limit, 0) : end])]

    def all(self) -> list[Job]:
        """Every job, in the order in which they were made."""
        with self._lock:
            return [self._jobs[self._ids[number]] for number in sorted(self._ids)]

    def states(self) -> dict[State, int]:
        """How many jobs are in each state."""
        with self._lock:
            clients = {client for client, _ in self._numbers}
            return {state: sum(self._count(client, state) for client in clients) for state in STATES}

    def held(self, client: str) -> tuple[int, int, int]:
        """Jobs of a client, those of them that wait in the queue, and bytes of inputs and results."""
        with self._lock:
            return self._count(client, None), self._count(client, "queued"), self._bytes[client]

    def create(self, fields: dict[str, Any], conditions: bytes | None, check: Callable[[Path | None], Reserved]) -> Job:
        """A new job with its folder; `check` is given the file of its conditions and may refuse the job.

        Raises:
            SbldmError: what `check` raises; nothing is left of the job.
            OSError: it cannot be written.
        """
        with self._lock:
            number, self._next = self._next, self._next + 1
        job_id, now = secrets.token_hex(16), time.time()
        place = f"{JOBS_NAME}/{fields['client']}/{job_id}"
        try:
            path = None
            if conditions is not None:
                self.folder.write(f"{place}/{CONDITIONS_NAME}", conditions)
                path = self.root / place / CONDITIONS_NAME
            reserved = check(path)
            job = Job(
                id=job_id, number=number, created=now, changed=now, inputs={}, has_conditions=path is not None,
                count=reserved.count, result_bytes=reserved.bytes, **fields,
            )  # fmt: skip
            self.tell(job, MADE)  # before it is there, so that no job is on disk of which the trail does not tell
            self._first_write(job, place)
        except (OSError, SbldmError):
            self.folder.clear(place)
            raise
        with self._lock:
            self._put(job)
        return job

    def change(self, job_id: str, change: Callable[[Job], Job | None]) -> Job | None:
        """Replace a job by what `change` makes of it, on disk too where its state, inputs or starts are others.

        None where there is none, or where `change` gives None: nothing is changed then.

        Raises:
            OSError: it cannot be written; nothing is changed.
        """
        with self._changing:
            old = self._jobs.get(job_id)
            new = None if old is None else change(old)
            if old is None or new is None or new == old:
                return new
            if new.state != old.state:
                new = new.with_(changed=time.time())
            if (new.state, new.inputs, new.starts) != (old.state, old.inputs, old.starts):
                self.folder.write(f"{_place(new)}/{JOB_NAME}", new.to_bytes())
            with self._lock:
                self._put(new)
        if new.has_ended and not old.has_ended:
            self.tell(new, f"job {new.state}")
        return new

    def remove(self, job: Job) -> None:
        """Remove a job with all that it was given and made; the service's audit trail tells of it.

        Raises:
            SbldmError: its run is damaged, or is still being made.
            OSError: a file cannot be removed; it can be tried again.
        """
        place = _place(job)
        run = self.path(job) / RUN_NAME
        head = None
        if (run / RUN_JSON).exists():
            purge_run(run)
        if self.folder.has(f"{place}/{RUN_NAME}"):
            with Folder(run) as folder:
                chain = check_chain(folder)
                head = None if chain is None else chain.head
        self.tell(job, "job removed", {"audit_head": head})
        with self._changing:
            self._forget(job)
            self.folder.remove(f"{place}/{JOB_NAME}", sync=True)
            self.folder.clear(place)

    def tell(self, job: Job, event: str, outcome: dict[str, Any] | None = None) -> None:
        """Add a line to the service's audit trail."""
        counts = {"samples": job.count, "done": job.done, "faulty": job.faulty}
        with self._telling:
            append(self.folder, {"job": job.id, "client": job.client, "kind": job.kind, **counts}, event, outcome)

    def _first_write(self, job: Job, place: str) -> None:
        try:
            self.folder.write(f"{place}/{JOB_NAME}", job.to_bytes())
        except OSError:
            with suppress(OSError, SbldmError):
                self.tell(job, "job removed")
            raise

    def _hold(self) -> Any:
        try:
            return self.folder.appending(LOCK_NAME)
        except LockHeldError as error:
            raise UsageError(f"--jobs {self.root}: another service runs on it\n{error}") from None

    def _read(self) -> None:
        """The jobs that are on disk; what a killed service left half-made is removed."""
        if not self.folder.has(JOBS_NAME):
            return
        for place, _ in job_folders(self.root):
            try:
                job = read_job(self.folder.read(f"{place}/{JOB_NAME}", MAX_JOB_BYTES), f"{place}/{JOB_NAME}")
            except FileNotFoundError:
                self.folder.clear(place)
                continue
            except (OSError, SbldmError):
                _log.error(f"{place}: is no job and is left alone; restore or remove it")
                continue
            if job.state == "waiting":  # an upload may have been coming
                with Folder(self.root / place) as folder:
                    folder.clear_temporaries(lambda _: True)
            if _place(job) == place and job.number not in self._ids:
                self._put(job)

    def _put(self, job: Job) -> None:
        old = self._jobs.get(job.id)
        if old is not None:
            self._drop(old)
        self._next = max(self._next, job.number + 1)
        self._jobs[job.id], self._ids[job.number] = job, job.id
        for state in (None, job.state):
            bisect.insort(self._numbers[job.client, state], job.number)
        self._bytes[job.client] += _size(job)

    def _drop(self, job: Job) -> None:
        del self._jobs[job.id], self._ids[job.number]
        for state in (None, job.state):
            numbers = self._numbers[job.client, state]
            del numbers[bisect.bisect_left(numbers, job.number)]
        self._bytes[job.client] -= _size(job)

    def _count(self, client: str, state: State | None) -> int:
        return len(self._numbers.get((client, state), ()))

    def _forget(self, job: Job) -> None:
        with self._lock:
            if (known := self._jobs.get(job.id)) is not None:
                self._drop(known)


def job_folders(root: Path) -> Iterator[tuple[str, str]]:
    """Place, relative to a service's directory, and id of what lies there as jobs do."""
    for client in sorted(os.listdir(root / JOBS_NAME)):
        if CLIENT.fullmatch(client):
            for job_id in sorted(os.listdir(root / JOBS_NAME / client)):
                if _ID.fullmatch(job_id):
                    yield f"{JOBS_NAME}/{client}/{job_id}", job_id


def _place(job: Job) -> str:
    return f"{JOBS_NAME}/{job.client}/{job.id}"


def _size(job: Job) -> int:
    return sum(job.inputs.values()) + job.result_bytes
