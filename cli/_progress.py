"""Progress of a run on stderr: a bar for people, log lines for pipes and collectors, nothing when quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engine.run.directory import RunDirectory
    from ..engine.run.ledger import SampleRecord
    from ..engine.telemetry import EventLog


@contextmanager
def run_progress(
    log: EventLog, quiet: bool
) -> Iterator[tuple[Callable[[RunDirectory], None], Callable[[SampleRecord], None]]]:
    """The callbacks `opened` and `recorded` of `engine.job.execute`."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar = not quiet and not log.as_json and console.is_terminal and not console.is_dumb_terminal
    bar = bar and sys.stderr.isatty()  # FORCE_COLOR calls a file a terminal
    columns = (TextColumn("samples"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not bar) as progress:
        task = progress.add_task("samples", total=None)

        def opened(directory: RunDirectory) -> None:
            progress.update(task, total=directory.done + len(directory.todo), completed=directory.done)
            for fault in directory.ledger_faults:
                log.event(fault, "warning")
            for sample in directory.changed:
                log.event("files missing or changed since they were recorded, made again", "warning", sample=sample)
            if not quiet and not bar:
                log.event("started", done=directory.done, to_make=len(directory.todo))

        def recorded(record: SampleRecord) -> None:
            progress.advance(task)
            if record.fault is not None:
                log.event("sample failed", "error", sample=record.sample, fault=record.fault)
            elif not quiet and not bar:
                log.event("sample made", sample=record.sample, attempt=record.attempt)

        yield opened, recorded
