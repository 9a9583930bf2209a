"""The process that makes one job: its uploads are read, its run is begun or gone on with, progress is told."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..bundle.load import load_bundle
from ..errors import IncompleteRunError, SbldmError
from ..portable import be_nice
from ..processes import end_with_parent
from ..run.arguments import respelled
from ..run.audit import acting
from ..run.description import RUN_NAME as RUN_JSON
from ..run.job import execute, prepare
from ..run.ledger import RunHeldError
from ..run.request import GenerateRequest, Source
from ..scans.masks import read_masks
from ..scans.options import read_options
from ..scans.source_case import read_case
from ..stopping import stopped_by_signals
from ..telemetry import Telemetry
from .job import CONDITIONS_NAME, INPUTS_NAME, RUN_NAME, Job

DEFAULT_STRENGTH = 0.5
_HELD_S = 20.0  # that the process of a service which was killed may take to end
_NICE = 10  # the service itself is to answer first
Tell = Callable[[str, Any], None]


@dataclass(frozen=True)
class Setup:
    """All a job's process needs."""

    job: Job
    folder: Path  # of the job
    bundle: Path
    bundle_sha256: str
    samples: int  # that a job may have
    threads: int | None


def work(setup: Setup, connection: Connection) -> None:
    """Life of the process: sends ("opened", (done, to do)), ("sample", sound), and one of ("ended", counts),
    ("stopped", None), ("failed", (kind of fault, reason)) at its end. TERM stops it."""
    os.umask(0o077)
    logging.getLogger("sbldm").addHandler(logging.NullHandler())  # what libraries tell may be of patients
    be_nice(_NICE)
    end_with_parent()

    def tell(kind: str, content: Any = None) -> None:
        with suppress(OSError):
            connection.send((kind, content))

    command = ("sbldm-engine", "serve", f"job {setup.job.id}")
    try:
        with stopped_by_signals(), acting(command, setup.job.client):
            _make(setup, tell)
    except KeyboardInterrupt:
        tell("stopped", None)
    except SbldmError as error:
        tell("failed", (type(error).__name__, _for_the_client(str(error), setup.folder)))
    except MemoryError:
        tell("failed", ("MemoryError", "no memory left on the service's machine"))
    except Exception as error:  # noqa: BLE001 - the border of the process: the parent reports it
        tell(
            "failed", (type(error).__name__, "unexpected fault of the service; its operator finds its kind in the log")
        )


def _make(setup: Setup, tell: Tell) -> None:
    job, telemetry = setup.job, Telemetry()
    bundle = load_bundle(setup.bundle)
    if bundle.sha256 != setup.bundle_sha256:
        raise IncompleteRunError("the model was changed while the service runs; its operator must start it again")
    source = _source(setup, bundle)
    table = setup.folder / CONDITIONS_NAME if job.has_conditions else None
    options = dict(job.options)
    if source is not None and table is None and job.kind == "augment":
        options.setdefault("count", 1)
    run = setup.folder / RUN_NAME
    request = GenerateRequest(
        bundle=bundle, conditions=table, source=source, out=run, resume=True, threads=_threads(setup, run), **options
    )
    made = prepare(request)
    if made.run.options.count > setup.samples:
        raise IncompleteRunError(f"{made.run.options.count} samples, this service makes at most {setup.samples} a job")
    give_up = time.monotonic() + _HELD_S
    while True:
        try:
            summary = execute(
                made, telemetry, threading.Event(),
                opened=lambda directory: tell("opened", (directory.done, len(directory.todo))),
                recorded=lambda record: tell("sample", record.fault is None),
            )  # fmt: skip
            break
        except RunHeldError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)
    sound = summary.selected - summary.failed
    tell("stopped", None) if summary.interrupted else tell("ended", (sound, summary.failed))


def _threads(setup: Setup, run: Path) -> int | None:
    """Those of the service; None, which keeps the run's own, where it was begun."""
    return None if (run / RUN_JSON).exists() else setup.threads


def _source(setup: Setup, bundle: Any) -> Source | None:
    job, inputs = setup.job, setup.folder / INPUTS_NAME
    if job.kind == "generate":
        return None
    options = read_options(**job.reading)
    if job.kind == "augment":
        strength = DEFAULT_STRENGTH if job.strength is None else job.strength
        return read_case(inputs, bundle, strength, options)[0]
    columns = [column.name for column in bundle.manifest.condition_columns]
    return read_masks(inputs, columns, bundle.manifest.grid, options)[0]


def _for_the_client(message: str, folder: Path) -> str:
    """A message without the places of this machine, options spelt as in a request."""
    return respelled(message.replace(f"{folder}/", "").replace(str(folder), "the job"))
