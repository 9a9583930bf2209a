"""A basket as run directories: made by a process of its own, by the same code as the command line's."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from ..bundle.load import load_bundle
from ..errors import SbldmError, UsageError
from ..files import make_directory, write_atomic
from ..folder import Folder
from ..portable import be_nice
from ..processes import start_process
from ..run.audit import acting
from ..run.job import execute, prepare
from ..run.request import GenerateRequest, Source
from ..stopping import stopped_by_signals
from ..telemetry import Telemetry

State = Literal["running", "done", "failed", "stopped"]
_END_S = 5.0


@dataclass(frozen=True)
class Part:
    """One run directory of a basket."""

    out: Path
    table: Path | None  # of conditions
    samples: str | None  # of the table's rows; None: all
    count: int | None
    source: Source | None
    options: dict[str, Any]  # of `GenerateRequest`


@dataclass(frozen=True)
class Setup:
    """All the process needs."""

    bundle: Path
    parts: tuple[Part, ...]


def work(setup: Setup, connection: Connection) -> None:
    """Life of the process: sends ("total", samples), ("sample", sound), and ("done" or "failed", words) at its end."""
    os.umask(0o077)
    be_nice(5)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def tell(kind: str, content: Any = None) -> None:
        with suppress(OSError):
            connection.send((kind, content))

    try:
        with stopped_by_signals(), acting(("sbldm-engine", "studio")):
            _make(setup, tell)
    except KeyboardInterrupt:
        tell("stopped", "stopped; the run can be gone on with by --resume")
    except SbldmError as error:
        tell("failed", str(error))
    except MemoryError:
        tell("failed", "no memory left on this machine; close the page's other volumes, or run the command")


def _make(setup: Setup, tell: Callable[[str, Any], None]) -> None:
    bundle = load_bundle(setup.bundle)
    jobs = []
    for part in setup.parts:
        request = GenerateRequest(
            bundle=bundle, conditions=part.table, source=part.source, out=part.out, samples=part.samples,
            count=part.count, **part.options,
        )  # fmt: skip
        jobs.append(prepare(request))
    tell("total", sum(len(job.selection) for job in jobs))
    failed = 0
    for job in jobs:
        sound: Callable[[Any], None] = lambda record: tell("sample", record.fault is None)  # noqa: E731
        failed += execute(job, Telemetry(), threading.Event(), recorded=sound).failed
    tell("done", f"{failed} samples failed, see the ledger" if failed else "")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class BasketRun:
    """A basket that is being made into run directories.

    Raises:
        UsageError: a table cannot be written.
    """

    def __init__(self, setup: Setup, tables: Mapping[Path, str]) -> None:
        for table, text in tables.items():
            if table.exists() and table.read_bytes() != text.encode():
                raise UsageError(f"{table}: is there with other rows; give another directory")
        self._written = [table for table in tables if not table.exists()]
        for table, text in tables.items():
            try:
                make_directory(table.parent)
                write_atomic(table, text.encode())
            except OSError as error:
                raise UsageError(f"{table}: cannot be written ({error.strerror}); give another directory") from error
        self.state: State = "running"
        self.total, self.done, self.words = 0, 0, ""
        self.outs = [str(part.out) for part in setup.parts]
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = start_process(context, work, (setup, other))
        other.close()
        threading.Thread(target=self._listen, name="basket", daemon=True).start()

    def as_dict(self) -> dict[str, Any]:
        """For the page."""
        return {"state": self.state, "total": self.total, "done": self.done, "words": self.words, "outs": self.outs}

    def stop(self) -> None:
        """End the process; what was made stays, and `--resume` goes on with it."""
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(_END_S)

    def _listen(self) -> None:
        try:
            while True:
                kind, content = self._connection.recv()
                if kind == "total":
                    self.total = content
                elif kind == "sample":
                    self.done += 1
                else:
                    if kind == "failed" and not self.total:  # refused: nothing is left of it
                        for table in self._written:
                            with Folder(table.parent) as folder:
                                folder.remove(table.name)
                    self.words, self.state = content, kind
        except (EOFError, OSError):
            if self.state == "running":
                self.words, self.state = "the process ended; the run can be gone on with by --resume", "stopped"
