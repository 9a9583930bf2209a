"""Progress of a run on stderr: a bar on a terminal, in a pipe a line for the first sample and then one a minute, an
event a sample for collectors.

Nothing when quiet.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from ..engine.run.directory import RunDirectory
    from ..engine.run.ledger import SampleRecord
    from ..engine.telemetry import EventLog

LINE_EVERY_S = 60.0


class Pace:
    """What a line of progress says: how many of how many, seconds each, how long it will take."""

    def __init__(self, done: int, total: int) -> None:
        self._before, self._total, self._ended = done, total, 0
        self._any_made = False
        self._started = self._told = time.monotonic()

    def line(self, *, made: bool) -> str | None:
        """Count one more sample; the line, where it is time for one and samples are left."""
        self._ended += 1
        now, left = time.monotonic(), self._total - self._before - self._ended
        first = made and not self._any_made
        self._any_made |= made
        if not left or (not first and now - self._told < LINE_EVERY_S):
            return None
        self._told = now
        each = (now - self._started) / self._ended
        done = "first sample made" if first else f"{self._before + self._ended} of {self._total} samples"
        return f"{done}, {each:.3g} s each, about {duration(each * left)} left"


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    days, hours = divmod(round(minutes / 60), 24)
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 24 * 60 else f"{days} d {hours} h"


def shows_a_bar(console: Console) -> bool:
    """Whether progress on stderr is a bar; FORCE_COLOR, which notebooks set, makes no terminal of a file."""
    return console.is_terminal and not console.is_dumb_terminal and sys.stderr.isatty()


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
    bar = not quiet and not log.as_json and shows_a_bar(console)
    columns = (TextColumn("samples"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not bar) as progress:
        task = progress.add_task("samples", total=None)
        pace = Pace(0, 0)

        def opened(directory: RunDirectory) -> None:
            nonlocal pace
            pace = Pace(directory.done, directory.done + len(directory.todo))
            progress.update(task, total=directory.done + len(directory.todo), completed=directory.done)
            for fault in directory.ledger_faults:
                log.event(fault, "warning")
            for sample in directory.changed:
                log.event("files missing or changed since they were recorded, made again", "warning", sample=sample)
            if not quiet and not bar:
                log.event("started", done=directory.done, to_make=len(directory.todo))

        def recorded(record: SampleRecord) -> None:
            progress.advance(task)
            line = pace.line(made=record.fault is None)
            if record.fault is not None:
                log.event("sample failed", "error", sample=record.sample, fault=record.fault)
            elif log.as_json and not quiet:
                log.event("sample made", sample=record.sample, attempt=record.attempt)
            if line is not None and not quiet and not bar and not log.as_json:
                log.event(line)

        yield opened, recorded
