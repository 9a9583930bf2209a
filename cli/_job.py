"""Run a prepared generation and report it: what `generate` and `augment` share."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable

from ..engine.run.directory import disk_faults
from ..engine.run.job import Job, Summary, execute, prepare
from ..engine.run.preview import write_preview
from ..engine.run.request import GenerateRequest
from ..engine.telemetry import EventLog, Telemetry
from ._options import RunFlags
from ._progress import run_progress


def run_job(
    request: GenerateRequest, flags: RunFlags, log: EventLog, check: Callable[[Job], None] = lambda _: None
) -> int:
    """Exit code of the run: 0 done, 5 some samples failed, 130 interrupted; `check` may refuse the prepared job.

    Raises:
        SbldmError: what was refused, or what stopped it.
    """
    telemetry = Telemetry(metrics_file=flags.metrics_file)
    job = prepare(request)
    check(job)
    telemetry.start_metrics()
    for warning in job.warnings:
        log.event(warning, "warning")
    with run_progress(log, flags.quiet) as (opened, recorded):
        summary = execute(job, telemetry, threading.Event(), opened=opened, recorded=recorded)
    if flags.preview and not summary.interrupted:
        with disk_faults(job.out):
            write_preview(job.out)
    if flags.report and not summary.interrupted:
        _write_report(job, flags)
    return _report(job, summary, log, flags)


def _write_report(job: Job, flags: RunFlags) -> None:
    from ..engine.report.write import ReportOptions, write_report

    with disk_faults(job.out):
        write_report(job.out, options=ReportOptions(bundle=flags.bundle))


def _report(job: Job, summary: Summary, log: EventLog, flags: RunFlags) -> int:
    code = 130 if summary.interrupted else 5 if summary.failed else 0
    if flags.as_json:
        result = {"out": str(job.out), **dataclasses.asdict(summary), "seed": job.run.options.seed, "exit_code": code}
        print(json.dumps({**result, "resolved": dataclasses.asdict(job.run.resolved)}))
    else:
        already = f", {summary.already_done} were there" if summary.already_done else ""
        print(f"{summary.made} samples made{already}, {summary.failed} failed: {job.out}")
    for line in () if flags.quiet else summary.told:
        log.event(line, "warning")
    if summary.interrupted:
        log.event("interrupted; go on with --resume", "warning")
    elif summary.failed:
        log.event(f"{summary.failed} samples failed, see the ledger; --resume tries them again", "error")
    return code
