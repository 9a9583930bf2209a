"""A whole generation: prepare (read and refuse), open the directory, make what is missing, close with the manifest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..backends.choose import choose_backend
from ..bundle.load import Bundle
from ..conditions.file import ConditionFile
from ..conditions.unusual import UnusualRows
from ..copies import CopyReference
from ..errors import DeviceMemoryError, IncompleteRunError, InvalidInputError, SbldmError, UsageError
from ..output.nifti import COMPRESSOR
from ..processes import require_children
from ..sampling.types import BatchLoop
from ..stopping import end_process
from ..telemetry import Telemetry
from .ahead import dropped_on_error, processes_ahead, reason_with, working_ahead
from .audit import audited
from .description import (
    ConditionsDigest,
    CopiesDigest,
    InsertDigest,
    Loop,
    Resolved,
    RunDescription,
    SourceDigest,
    describe,
    source_digest,
)
from .directory import RunDirectory, disk_faults, recorded_run, require_same
from .ledger import SampleRecord
from .memory import require_memory
from .open_loop import default_batch_size, fit_batch, load_networks, open_loop, reopen_loop
from .options import RunOptions
from .outcomes import Outcomes
from .pipeline import Pipeline
from .request import GenerateRequest
from .requests import Requests, SampleTask
from .row_ids import row_ids
from .selection import Selection, parse_samples, parse_shard
from .time_limit import TimeLimit
from .workers import WorkerPool, WorkerSetup
from .writer import Finisher

_AUTO = "auto"
_log = logging.getLogger("sbldm")


@dataclass(frozen=True)
class Job:
    """A run that may be started: everything that can be refused without writing has been checked."""

    request: GenerateRequest
    out: Path
    run: RunDescription
    requests: Requests
    selection: Selection
    warnings: tuple[str, ...]
    loop: BatchLoop | None  # the one that resolved the options, where there was need of one
    is_resumed: bool  # the directory holds this run already

    @property
    def bundle(self) -> Bundle:
        """The model of the run."""
        return self.request.bundle


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    selected: int
    already_done: int
    made: int
    failed: int
    changed: int  # recorded samples whose files had to be made again
    without_tumour: int  # of the selected samples, their masks are empty; 0 where the run was interrupted
    off_volume: int  # of the selected samples, see `outcomes.VOLUME_TOLERANCE`
    interrupted: bool
    told: tuple[str, ...]  # what a user should know of the samples


def prepare(request: GenerateRequest) -> Job:
    """Check what a request asks of a directory, its conditions and this machine; nothing is written.

    Raises:
        InvalidInputError: conditions.
        UsageError: no output directory, or one that cannot take the run.
        BackendUnavailableError: no backend can run it.
    """
    manifest, out = request.bundle.manifest, request.out
    if out is None:
        raise UsageError("--out: a run needs a directory")
    unusual = UnusualRows(manifest.cohort)
    given = request.table(unusual)
    warnings = unusual.messages(str(request.conditions or "masks"))
    if warnings and request.strict:
        raise InvalidInputError("\n".join(warnings) + "\nrefused by --strict")
    options = request.options(len(given))
    shard = parse_shard(request.shard)
    samples = None if request.samples is None else parse_samples(request.samples, options.count)
    recorded = recorded_run(out, request.resume, shard)
    digest = ConditionsDigest.of(given) if isinstance(given, ConditionFile) else None
    ids = row_ids(given, options)
    run, loop = _resolve(request, out, options, digest, ids, recorded, warnings.append)
    selection = Selection(options.count, run.resolved.batch_size, shard, samples)
    requests = Requests.of(given, manifest, options.seed)
    return Job(request, out, run, requests, selection, tuple(warnings), loop, recorded is not None)


def execute(
    job: Job,
    telemetry: Telemetry,
    stop: threading.Event,
    *,
    opened: Callable[[RunDirectory], None] = lambda _: None,
    recorded: Callable[[SampleRecord], None] = lambda _: None,
) -> Summary:
    """Make what is missing of a run; returns early, with all that was made in place, once `stop` is set.

    `opened` is told of the open directory, `recorded` of each sample after its ledger line. KeyboardInterrupt drops
    the samples in flight and counts as stopping.

    Raises:
        IncompleteRunError: the disk is full, or workers die one after another.
        SbldmError: see `prepare` and `require_same`.
    """
    source = job.run.source
    verb = "augment" if isinstance(source, SourceDigest | InsertDigest) else "generate"
    part = {"shard": job.request.shard, "samples": job.request.samples}
    verify_files = job.request.verify_files
    with (
        RunDirectory(job.out, job.run, job.selection, verify_files=verify_files) as directory,
        disk_faults(job.out),
        audited(directory.folder, directory.run.inputs() | part, verb) as outcome,
    ):
        telemetry.total = len(directory.todo)
        opened(directory)
        _log.debug(f"{verb}: {len(directory.todo)} samples to make, {directory.done} are there")
        summary = _fill(job, directory, telemetry, stop, recorded)
        outcome |= {
            name: getattr(summary, name) for name in ("selected", "already_done", "made", "failed", "interrupted")
        }
    return summary


def _fill(
    job: Job,
    directory: RunDirectory,
    telemetry: Telemetry,
    stop: threading.Event,
    recorded: Callable[[SampleRecord], None],
) -> Summary:
    """Make what an open directory lacks; see `execute`."""
    made = failed = 0

    def record(sample: SampleRecord) -> None:
        nonlocal made, failed
        directory.record(sample)
        made, failed = made + (sample.fault is None), failed + (sample.fault is not None)
        recorded(sample)

    interrupted, outcomes = False, Outcomes()
    try:
        with disk_faults(job.out):
            if directory.todo and job.request.ray is not None:
                _on_ray(job, job.request.ray, directory, record, telemetry, stop)
            elif directory.todo and job.request.workers > 1:
                _with_workers(job, directory, record, telemetry, stop)
            elif directory.todo:
                _in_process(job, directory, record, telemetry, stop)
    except DeviceMemoryError as error:
        raise IncompleteRunError(f"{error}; make room in memory and go on with --resume") from error
    except KeyboardInterrupt:
        interrupted = True
        directory.clear_leftovers()
    interrupted = interrupted or stop.is_set()
    if not interrupted:
        outcomes = directory.close_complete()
        failed = outcomes.failed
    telemetry.write_metrics()
    selected = directory.done + len(directory.todo)
    return Summary(
        selected, directory.done, made, failed, len(directory.changed), outcomes.without_tumour,
        outcomes.off_volume, interrupted, tuple(outcomes.told()),
    )  # fmt: skip


def _in_process(
    job: Job,
    directory: RunDirectory,
    record: Callable[[SampleRecord], None],
    telemetry: Telemetry,
    stop: threading.Event,
) -> None:
    loop = job.loop or reopen_loop(job.bundle, job.run, job.request.device, job.request.source)
    finisher = Finisher(
        job.out, job.run, job.bundle.manifest, telemetry, job.request.source, job.request.exclude_copies
    )
    limit = TimeLimit(job.request.sample_timeout, lambda samples: _end_stuck(job, samples, record))
    with (
        working_ahead(loop, processes_ahead(loop, job.request.threads)) as working,
        Pipeline(working, finisher, record, limit=limit) as pipeline,
        dropped_on_error(working),
    ):
        for group in groups(job, directory.todo):
            if stop.is_set():
                return
            pipeline.feed(group)
        pipeline.drain()


def _end_stuck(job: Job, samples: list[int], record: Callable[[SampleRecord], None]) -> None:
    """Record samples whose model run cannot be ended as failed, and end the process: exit code 5."""
    finisher = Finisher(job.out, job.run, job.bundle.manifest, Telemetry())
    with suppress(OSError, SbldmError):
        for sample in samples:
            record(finisher.failed(job.requests.task(sample), "took longer than --sample-timeout and did not end"))
    end_process(
        IncompleteRunError.exit_code,
        f"error: {job.out}: sample {samples[0]} took longer than --sample-timeout and cannot be ended in this process; "
        "go on with --resume --workers 2, where it can",
    )


def _with_workers(
    job: Job,
    directory: RunDirectory,
    record: Callable[[SampleRecord], None],
    telemetry: Telemetry,
    stop: threading.Event,
) -> None:
    pool = WorkerPool(_setup(job), job.request.workers, record, telemetry)
    _record_lost(job, pool.run(groups(job, directory.todo), stop), record, telemetry)


def _on_ray(
    job: Job,
    address: str,
    directory: RunDirectory,
    record: Callable[[SampleRecord], None],
    telemetry: Telemetry,
    stop: threading.Event,
) -> None:
    from .ray_cluster import RayCluster, connected

    with connected(address) as ray:
        cluster = RayCluster(
            ray, _setup(job), job.request.workers if job.request.workers > 1 else None, record, telemetry
        )
        _record_lost(job, cluster.run(groups(job, directory.todo), stop), record, telemetry)


def _setup(job: Job) -> WorkerSetup:
    request = job.request
    return WorkerSetup(
        job.bundle.path, job.out, job.run, request.device, request.source, request.sample_timeout,
        request.exclude_copies,
    )  # fmt: skip


def _record_lost(
    job: Job, tasks: list[SampleTask], record: Callable[[SampleRecord], None], telemetry: Telemetry
) -> None:
    finisher = Finisher(job.out, job.run, job.bundle.manifest, telemetry)
    for task in tasks:
        record(finisher.failed(task, "each process that was to make it died, or took longer than --sample-timeout"))
        telemetry.count("failed")


def groups(job: Job, samples: Iterable[int]) -> Iterator[list[SampleTask]]:
    """The tasks of `samples`, those of one batch together."""
    return job.requests.groups(samples, job.run.resolved.batch_size)


def _resolve(
    request: GenerateRequest,
    out: Path,
    options: RunOptions,
    digest: ConditionsDigest | None,
    ids: tuple[str, ...] | None,
    recorded: RunDescription | None,
    warn: Callable[[str], None],
) -> tuple[RunDescription, BatchLoop | None]:
    """The run's description: the recorded one if it is the same run, else a new one and the loop that resolved it."""
    require_children(1 if request.ray is not None else request.workers)
    bundle, size = request.bundle, request.batch_size
    source, copies = source_digest(request.source), _copies_digest(request.exclude_copies)
    if recorded is not None:
        asked = describe(bundle, options, _overridden(request, recorded), {}, digest, source,
                         row_ids=ids, dataset_grid=request.dataset_grid, exclude_copies=copies)  # fmt: skip
        require_same(out, recorded, asked)
        return recorded, None
    given = size if isinstance(size, int) else 1
    backend = choose_backend(
        bundle, request.backend, request.device, request.precision, request.threads, given,
        workers=1 if request.ray is not None else request.workers, shards=parse_shard(request.shard).count,
    )  # fmt: skip
    kind = backend.device.partition(":")[0]
    if kind == "cpu" and given > 1:
        require_memory(bundle, given)
    chosen_here = size == _AUTO or (size is None and kind != "cpu")
    wanted = default_batch_size(backend, options) if chosen_here else given
    opened = fit_batch(lambda n: open_loop(bundle, backend, options, n, request.source), wanted, warn)
    fitting = opened.options.batch_size
    _log.debug(f"{backend.name} on {kind}: {backend.precision}, {backend.threads} threads, {opened.kind}")
    if opened.kind == "launches":
        warn(f"sampling by plain launches: {opened.reason}")
    resolved = Resolved(backend.name, kind, backend.precision, fitting, backend.threads, COMPRESSOR)
    alone = request.workers == 1 and request.ray is None
    reason = reason_with(opened, processes_ahead(opened, request.threads) if alone else 0)
    loop = Loop(opened.kind, reason, None if fitting == wanted else wanted)
    run = describe(
        bundle,
        options,
        resolved,
        {backend.name: backend.version},
        digest,
        source,
        loop,
        ids,
        request.dataset_grid,
        copies,
    )
    if request.workers > 1 or request.ray is not None:
        return run, None
    load_networks(bundle, backend, fitting)
    return run, opened


def _copies_digest(reference: CopyReference | None) -> CopiesDigest | None:
    return None if reference is None else CopiesDigest(reference.sha256(), len(reference.features))


def _overridden(request: GenerateRequest, run: RunDescription) -> Resolved:
    """The recorded resolution with what was asked for explicitly in its place."""
    recorded, refused = run.resolved, run.loop and run.loop.refused_batch_size
    size = request.batch_size if isinstance(request.batch_size, int) else None
    return Resolved(
        recorded.backend if request.backend == _AUTO else request.backend,
        recorded.device if request.device == _AUTO else request.device.partition(":")[0],
        recorded.precision if request.precision == _AUTO else request.precision,
        recorded.batch_size if size in (None, refused) else size,
        recorded.threads if request.threads is None else request.threads,
        COMPRESSOR,
    )
