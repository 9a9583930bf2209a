"""What a service does for a client, without HTTP: jobs are made, fed, started, looked at, ended and removed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..bundle.load import Bundle, load_bundle
from ..errors import InvalidInputError, SbldmError, UsageError
from ..folder import Folder, temporary_of
from ..run.audit import AUDIT_NAME
from ..run.description import RUN_NAME as RUN_JSON
from ..run.description import RunDescription, read_description
from ..run.owned import OwnNames, is_lock
from ..telemetry import EventLog
from .asked import AskedJob, check_asked
from .job import RUN_NAME, Job
from .logs import Figures, Logs
from .queue import Queue
from .settings import Settings
from .store import Reserved, Store
from .tokens import Tokens, local_token, read_tokens
from .uploads import Upload, check_name, missing_uploads


class Refused(SbldmError):
    """What a client asks for cannot be, with the status of the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class ResultFile:
    """A file of a job's run."""

    path: str  # relative to the run directory
    bytes: int


class Service:
    """A directory of jobs, the models, the clients; use as a context manager, one a directory.

    Raises:
        UsageError: the directory cannot be used, or another service runs on it.
        InvalidInputError: a bundle, its signature or the file of tokens is not what it must be.
    """

    def __init__(self, settings: Settings, log: EventLog | None = None) -> None:
        self.settings = settings
        loaded = [load_bundle(name, settings.require_signature) for name in settings.bundles]
        self.models: dict[str, Bundle] = {bundle.manifest.id: bundle for bundle in loaded}
        if len(self.models) < len(loaded):
            raise UsageError("--bundle: two bundles have the same id; give one of them")
        known = None if settings.tokens is None else read_tokens(settings.tokens)
        self._opened = ExitStack()
        self.store = Store(settings.jobs)
        self._opened.callback(self.store.close)
        try:
            self.tokens: Tokens = known or local_token(self.store.folder)
        except BaseException:
            self._opened.close()
            raise
        self.logs = Logs(log or EventLog("json"))
        self._opened.callback(self.logs.close)
        self.queue = Queue(self.store, settings, self.models, self.logs.event)
        self.figures = Figures(self.store.states, lambda: self.queue.made)
        self._making = threading.Lock()  # of jobs: bounds are kept by one at a time
        self._uploading: set[tuple[str, str]] = set()  # job and name

    def __enter__(self) -> Service:
        self.queue.start()
        self._opened.callback(self.queue.stop)
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def job(self, client: str, job_id: str) -> Job:
        """A client's job; Refused (404) where it has none of this id."""
        job = self.store.get(client, job_id)
        if job is None:
            raise Refused(404, "no such job")
        return job

    def create(self, client: str, asked: AskedJob) -> Job:
        """A new job: queued, or waiting for its uploads.

        Raises:
            Refused: 422 for what contradicts itself or the model, 429 where the client or the service has too much.
        """
        name = next(iter(self.models)) if asked.model is None else asked.model
        bundle = self.models.get(name)
        if bundle is None:
            raise Refused(422, f"model: there is none of this name; there are {', '.join(self.models)}")
        fields = {
            "client": client, "kind": asked.kind, "model": name, "options": asked.options(),
            "reading": asked.reading(), "strength": asked.strength, "state": "waiting",
        }  # fmt: skip
        conditions = None if asked.conditions is None else asked.conditions.encode("utf-8", "surrogatepass")
        with self._making:
            self._require_room(client)
            held = self.store.held(client)[2]

            def check(path: Path | None) -> Reserved:
                reserved = check_asked(asked, bundle, self.settings.samples, path)
                if held + reserved.bytes > self.settings.client_bytes:
                    raise Refused(429, f"results may take {reserved.bytes} bytes more than this client has left")
                return reserved

            try:
                job = self.store.create(fields, conditions, check)
            except (InvalidInputError, UsageError) as error:
                raise Refused(422, str(error)) from error
            return job if asked.kind != "generate" else (self.queue.add(job) or job)

    def start(self, client: str, job_id: str) -> Job:
        """Queue a job that has its uploads; Refused: 409 where it does not wait for that, 429 without room."""
        job = self.job(client, job_id)
        with self._making:
            if any(key[0] == job_id for key in self._uploading):
                raise Refused(409, "an upload is still coming")
            if job.state != "waiting":
                raise Refused(409, f"the job is {job.state}")
            if missing := missing_uploads(job, self.models[job.model].manifest.modalities):
                raise Refused(409, f"still to be uploaded: {', '.join(missing)}")
            self._require_queue(client)
            started = self.queue.add(job)
        if started is None:
            raise Refused(409, "the job does not wait any more")
        return started

    def cancel(self, client: str, job_id: str) -> Job:
        """End a job; Refused (409) where it has ended."""
        if self.queue.cancel(self.job(client, job_id)) is None:
            raise Refused(409, "the job has ended")
        return self.job(client, job_id)

    def remove(self, client: str, job_id: str) -> None:
        """Remove a job that neither waits in the queue nor runs; Refused (409) for one that does."""
        with self._making:
            job = self.job(client, job_id)
            if job.state in ("queued", "running") or any(key[0] == job_id for key in self._uploading):
                raise Refused(409, f"the job is {job.state}; cancel it first")
            self.store.remove(job)
        self.logs.event("job removed", job=job.id, client=client)

    @contextmanager
    def uploading(self, client: str, job_id: str, name: str) -> Iterator[Job]:
        """The block in which an upload comes, one of a name at a time.

        Raises:
            Refused: 404, 409 for a job that does not wait for uploads, 422 for a name that it does not take, 429 where
                the client has no room.
        """
        job = self.job(client, job_id)
        if job.model not in self.models:
            raise Refused(409, "the service has no such model any more")
        try:
            check_name(job, name, self.models[job.model].manifest.modalities)
        except UsageError as error:
            raise Refused(422, str(error)) from error
        key = (job_id, name)
        if job.state != "waiting" or key in self._uploading:
            raise Refused(409, f"the job is {job.state}" if job.state != "waiting" else "this upload is coming already")
        if name not in job.inputs and len(job.inputs) >= self.settings.uploads:
            raise Refused(429, f"a job has at most {self.settings.uploads} uploads")
        if self.store.held(client)[2] + self.settings.upload_bytes > self.settings.client_bytes:
            raise Refused(429, "this client has no room for another upload; remove jobs")
        self._uploading.add(key)
        try:
            yield job
        finally:
            self._uploading.discard(key)

    def open_upload(self, job: Job, name: str, head: bytes) -> Upload:
        """Where an upload is written, whose first bytes are given; InvalidInputError for what is no scan by them."""
        return Upload(self.store.path(job), job, name, head)

    def keep_upload(self, job: Job, name: str, upload: Upload) -> Job:
        """The job with an upload that came whole; Refused (409) where it does not wait any more."""

        def keep(job: Job) -> Job | None:  # while nobody else can change the job
            if job.state != "waiting":
                return None
            upload.keep()
            return job.with_(inputs={**job.inputs, name: upload.size})

        changed = self.store.change(job.id, keep)
        if changed is None:
            raise Refused(409, "the job does not wait for uploads any more")
        return changed

    def files(self, client: str, job_id: str) -> list[ResultFile]:
        """The files of a job's run so far, sorted."""
        job = self.job(client, job_id)
        run = self._run(job)
        if run is None:
            return []
        owns, found = OwnNames(run), list[ResultFile]()
        with Folder(self.store.path(job) / RUN_NAME) as folder:
            for name in folder.walk():
                status = folder.status(name) if _is_result(owns, name) else None
                if status is not None:
                    found.append(ResultFile(name, status.st_size))
        return found

    @contextmanager
    def result(self, client: str, job_id: str, name: str) -> Iterator[tuple[BinaryIO, int]]:
        """A file of a job's run, open for reading, and its bytes; Refused (404) for what is none."""
        job = self.job(client, job_id)
        run = self._run(job)
        if run is None or not _is_result(OwnNames(run), name):
            raise Refused(404, "no such file")
        with Folder(self.store.path(job) / RUN_NAME) as folder, ExitStack() as stack:
            status = folder.status(name)
            if status is None:
                raise Refused(404, "no such file")
            yield stack.enter_context(folder.reading(name)), status.st_size

    def _run(self, job: Job) -> RunDescription | None:
        directory = self.store.path(job) / RUN_NAME
        if not (directory / RUN_JSON).exists():
            return None
        try:
            return read_description(directory)
        except InvalidInputError as error:
            raise Refused(409, "the job's run is damaged; remove the job") from error

    def _require_room(self, client: str) -> None:
        jobs, _, _ = self.store.held(client)
        if jobs >= self.settings.client_jobs:
            raise Refused(429, f"this client has {jobs} jobs; remove some")
        self._require_queue(client)

    def _require_queue(self, client: str) -> None:
        if self.store.held(client)[1] >= self.settings.client_queue:
            raise Refused(429, f"{self.settings.client_queue} jobs of this client wait already")
        if self.store.states()["queued"] >= self.settings.queue:
            raise Refused(429, f"{self.settings.queue} jobs wait already")


def _is_result(owns: OwnNames, name: str) -> bool:
    return owns(name) and name != AUDIT_NAME and not is_lock(name) and temporary_of(name) is None
