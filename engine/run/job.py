"""A whole generation: prepare (read and refuse), open the directory, make what is missing, close with the manifest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backends.choose import choose_backend
from ..bundle.load import DEFAULT_BUNDLE, Bundle, load_bundle
from ..conditions.columns import blank
from ..conditions.csv import read_conditions
from ..conditions.distribution import unusual_rows
from ..errors import InvalidInputError, UsageError
from ..output.nifti import COMPRESSOR
from ..sampling.sdedit import SourceCase, check_source
from ..sampling.types import BatchLoop
from ..telemetry import Telemetry
from .description import Loop, Resolved, RunDescription, SourceDigest, describe, digest_conditions
from .directory import RunDirectory, disk_faults, recorded_run, require_same
from .ledger import SampleRecord
from .open_loop import fit_batch, measured_batch_size, open_loop, reopen_loop
from .options import MAX_BATCH, RunOptions, make_options
from .pipeline import Pipeline
from .requests import Requests, SampleTask
from .selection import Selection, parse_samples, parse_shard
from .workers import WorkerPool, WorkerSetup
from .writer import Finisher

_AUTO = "auto"


@dataclass(frozen=True)
class Asked:
    """What a user asks of a run; None and "auto" leave the choice to the bundle, the machine or the recorded run."""

    out: Path
    bundle: str | Path = DEFAULT_BUNDLE
    conditions: Path | None = None
    count: int | None = None
    options: dict[str, Any] = field(default_factory=dict)  # fields of RunOptions but count
    backend: str = _AUTO
    device: str = _AUTO
    precision: str = _AUTO
    batch_size: str | None = None  # a number or "auto"
    threads: int | None = None
    shard: str | None = None
    samples: str | None = None
    resume: bool = False
    strict: bool = False
    workers: int = 1
    source: SourceCase | None = None  # of `augment`
    ray: str | None = None  # address of a Ray cluster


@dataclass(frozen=True)
class Job:
    """A run that may be started: everything that can be refused without writing has been checked."""

    bundle: Bundle
    run: RunDescription
    requests: Requests
    selection: Selection
    device: str
    out: Path
    warnings: tuple[str, ...]
    workers: int
    source: SourceCase | None
    ray: str | None
    loop: BatchLoop | None  # the one that resolved the options, where there was need of one


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    selected: int
    already_done: int
    made: int
    failed: int
    changed: int  # recorded samples whose files had to be made again
    interrupted: bool


def prepare(asked: Asked) -> Job:
    """Check everything that was asked for; nothing is written.

    Raises:
        InvalidInputError: bundle or conditions.
        UsageError: options, or the output directory.
        BackendUnavailableError: no backend can run it.
    """
    bundle = load_bundle(asked.bundle)
    manifest = bundle.manifest
    if asked.source is not None:
        check_source(asked.source, bundle)
    columns = [column.name for column in manifest.condition_columns]
    if asked.count is None and asked.conditions is None:
        raise UsageError("give --count N, --conditions FILE or both")
    _check_numbers(asked)
    given = (
        blank(columns) if asked.conditions is None else read_conditions(asked.conditions, columns, manifest.grid.fov_mm)
    )
    warnings = list(unusual_rows(given, manifest.cohort))
    if warnings and asked.strict:
        raise InvalidInputError("\n".join(warnings) + "\nrefused by --strict")
    options = make_options(bundle, asked.count if asked.count is not None else len(given), **asked.options)
    shard = parse_shard(asked.shard or "0/1")
    samples = None if asked.samples is None else parse_samples(asked.samples, options.count)
    recorded = recorded_run(asked.out, asked.resume, shard)
    run, loop = _resolve(asked, bundle, options, recorded, warnings.append)
    selection = Selection(options.count, run.resolved.batch_size, shard, samples)
    return Job(
        bundle,
        run,
        Requests.of(given, manifest, options.seed),
        selection,
        asked.device,
        asked.out,
        tuple(warnings),
        asked.workers,
        asked.source,
        asked.ray,
        loop,
    )


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
    made = failed = 0
    with RunDirectory(job.out, job.run, job.selection) as directory:
        telemetry.total = len(directory.todo)
        opened(directory)

        def record(sample: SampleRecord) -> None:
            nonlocal made, failed
            directory.record(sample)
            made, failed = made + (sample.fault is None), failed + (sample.fault is not None)
            recorded(sample)

        interrupted = False
        try:
            with disk_faults(job.out):
                if directory.todo and job.ray is not None:
                    _on_ray(job, job.ray, directory, record, telemetry, stop)
                elif directory.todo and job.workers > 1:
                    _with_workers(job, directory, record, telemetry, stop)
                elif directory.todo:
                    _in_process(job, directory, record, telemetry, stop)
        except KeyboardInterrupt:
            interrupted = True
            directory.clear_leftovers()
        interrupted = interrupted or stop.is_set()
        if not interrupted:
            failed = directory.close_complete()
        telemetry.write_metrics()
        selected = directory.done + len(directory.todo)
        return Summary(selected, directory.done, made, failed, len(directory.changed), interrupted)


def _in_process(
    job: Job,
    directory: RunDirectory,
    record: Callable[[SampleRecord], None],
    telemetry: Telemetry,
    stop: threading.Event,
) -> None:
    loop = job.loop or reopen_loop(job.bundle, job.run, job.device, job.source)
    finisher = Finisher(job.out, job.run, job.bundle.manifest, telemetry)
    with Pipeline(loop, finisher, record) as pipeline:
        for group in groups(job, directory.todo):
            if stop.is_set():
                return
            pipeline.feed(group)
        pipeline.drain()


def _with_workers(
    job: Job,
    directory: RunDirectory,
    record: Callable[[SampleRecord], None],
    telemetry: Telemetry,
    stop: threading.Event,
) -> None:
    pool = WorkerPool(_setup(job), job.workers, record, telemetry)
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
        cluster = RayCluster(ray, _setup(job), job.workers if job.workers > 1 else None, record, telemetry)
        _record_lost(job, cluster.run(groups(job, directory.todo), stop), record, telemetry)


def _setup(job: Job) -> WorkerSetup:
    return WorkerSetup(job.bundle.path, job.out, job.run, job.device, job.source)


def _record_lost(
    job: Job, tasks: list[SampleTask], record: Callable[[SampleRecord], None], telemetry: Telemetry
) -> None:
    finisher = Finisher(job.out, job.run, job.bundle.manifest, telemetry)
    for task in tasks:
        record(finisher.failed(task, "each process that was to make it died"))
        telemetry.count("failed")


def groups(job: Job, samples: list[int]) -> Iterator[list[SampleTask]]:
    """The tasks of `samples`, those of one batch together."""
    return job.requests.groups(samples, job.run.resolved.batch_size)


def _check_numbers(asked: Asked) -> None:
    if asked.threads is not None and not 1 <= asked.threads <= 1024:
        raise UsageError(f"--threads {asked.threads}: must be from 1 to 1024")
    if not 1 <= asked.workers <= 256:
        raise UsageError(f"--workers {asked.workers}: must be from 1 to 256")
    size = asked.batch_size
    if size is not None and size != _AUTO and not (size.isascii() and size.isdigit() and 1 <= int(size) <= MAX_BATCH):
        raise UsageError(f"--batch-size {size}: must be auto, or from 1 to {MAX_BATCH}")


def _resolve(
    asked: Asked,
    bundle: Bundle,
    options: RunOptions,
    recorded: RunDescription | None,
    warn: Callable[[str], None],
) -> tuple[RunDescription, BatchLoop | None]:
    """The run's description: the recorded one if it is the same run, else a new one and the loop that resolved it."""
    digest = None if asked.conditions is None else digest_conditions(asked.conditions)
    source = None if asked.source is None else SourceDigest(asked.source.sha256(), asked.source.strength)
    if recorded is not None:
        require_same(asked.out, recorded, describe(bundle, options, _overridden(asked, recorded), {}, digest, source))
        return recorded, None
    given = 1 if asked.batch_size in (None, _AUTO) else int(asked.batch_size)
    backend = choose_backend(bundle, asked.backend, asked.device, asked.precision, asked.threads, given)
    kind = backend.device.partition(":")[0]
    measured = asked.batch_size == _AUTO or (asked.batch_size is None and kind != "cpu")
    size = measured_batch_size(bundle, backend, options, asked.source) if measured else given
    opened = fit_batch(lambda n: open_loop(bundle, backend, options, n, asked.source), size, warn)
    fitting = opened.options.batch_size
    if opened.kind == "launches":
        warn(f"sampling by plain launches: {opened.reason}")
    resolved = Resolved(backend.name, kind, backend.precision, fitting, backend.threads, COMPRESSOR)
    loop = Loop(opened.kind, opened.reason, None if fitting == size else size)
    run = describe(bundle, options, resolved, {backend.name: backend.version}, digest, source, loop)
    return run, opened if asked.workers == 1 and asked.ray is None else None


def _overridden(asked: Asked, run: RunDescription) -> Resolved:
    """The recorded resolution with what was asked for explicitly in its place."""
    recorded, refused = run.resolved, run.loop and run.loop.refused_batch_size
    size = None if asked.batch_size in (None, _AUTO) else int(asked.batch_size)
    return Resolved(
        recorded.backend if asked.backend == _AUTO else asked.backend,
        recorded.device if asked.device == _AUTO else asked.device.partition(":")[0],
        recorded.precision if asked.precision == _AUTO else asked.precision,
        recorded.batch_size if size in (None, refused) else size,
        recorded.threads if asked.threads is None else asked.threads,
        COMPRESSOR,
    )
