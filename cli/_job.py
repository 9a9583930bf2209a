"""Run a prepared generation and report it: what `generate` and `augment` share."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path

from ..engine.portable import keep_freed_memory
from ..engine.run.directory import disk_faults
from ..engine.run.job import Job, Summary, execute, prepare
from ..engine.run.owned import REPORT_NAME
from ..engine.run.preview import write_preview
from ..engine.run.request import GenerateRequest
from ..engine.screen import counted
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
    keep_freed_memory()
    telemetry = Telemetry(metrics_file=flags.metrics_file)
    job = prepare(request)
    check(job)
    telemetry.start_metrics()
    for warning in job.warnings:
        log.event(warning, "warning")
    with run_progress(log, flags.quiet) as (opened, recorded):
        summary = execute(job, telemetry, threading.Event(), opened=opened, recorded=recorded)
    pages: dict[str, Path] = {}
    if flags.preview and not summary.interrupted:
        with disk_faults(job.out):
            pages["preview"] = write_preview(job.out)
    if flags.report and not summary.interrupted:
        pages["report"] = _write_report(job, flags)
    return _report(job, summary, pages, log, flags)


def _write_report(job: Job, flags: RunFlags) -> Path:
    from ..engine.report.write import ReportOptions, write_report

    with disk_faults(job.out):
        write_report(job.out, options=ReportOptions(bundle=flags.bundle))
    return job.out / REPORT_NAME


def _report(job: Job, summary: Summary, pages: dict[str, Path], log: EventLog, flags: RunFlags) -> int:
    code = 130 if summary.interrupted else 5 if summary.failed else 0
    if flags.as_json:
        written = {name: str(path) for name, path in pages.items()}
        how = {**dataclasses.asdict(summary), "seed": job.run.options.seed, "exit_code": code}
        result = {"out": str(job.out), **written, **how}
        print(json.dumps({**result, "resolved": dataclasses.asdict(job.run.resolved)}))
    else:
        already = f", {summary.already_done} were there" if summary.already_done else ""
        print(f"{counted(summary.made, 'sample')} made{already}, {summary.failed} failed: {job.out}")
        for name, path in pages.items():
            print(f"{name}: {path}")
    for line in () if flags.quiet else summary.told:
        log.event(line, "warning")
    if summary.interrupted:
        log.event("interrupted; go on with --resume", "warning")
    elif summary.failed:
        log.event(f"{counted(summary.failed, 'sample')} failed, see the ledger; --resume tries them again", "error")
    return code
