"""What an operator sees of a run: counts, queue depth and seconds a stage, as a Prometheus text file and log lines."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

from .errors import UsageError
from .files import write_atomic
from .screen import shown

STAGES = ("sample", "decode", "measure", "write")
LogFormat = Literal["text", "json"]
_PREFIX = "sbldm"
_EXACT = re.compile(r" (\d+\.0|\d\.\d+e\+\d+)$", re.MULTILINE)
"""Numbers that the library writes as 2.0 and 1.234567e+06: people want 2, and all digits."""
_METRICS_INTERVAL_S = 2.0


@dataclass(frozen=True)
class Figures:
    """What a worker process reports beside its records."""

    seconds: dict[str, float]  # by stage
    redrawn: int


def _no_seconds() -> dict[str, float]:
    return {name: 0.0 for name in STAGES}


class Telemetry:
    """Counters of one process; safe to use from several threads."""

    def __init__(self, total: int = 0, metrics_file: Path | None = None) -> None:
        self.total = total
        self._metrics_file = metrics_file
        self._lock, self._metrics_lock = threading.Lock(), threading.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds = _no_seconds()
        self._queue_depth = 0
        self._started = self._written = time.monotonic()
        self._failing = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to a stage of `STAGES`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.add_seconds({name: time.monotonic() - start})

    def add_seconds(self, seconds: dict[str, float]) -> None:
        """Add seconds by stage."""
        with self._lock:
            for name, value in seconds.items():
                self._seconds[name] += value

    def take(self) -> Figures:
        """What was counted since the last call, for the process that hands out the work."""
        with self._lock:
            taken, self._seconds = self._seconds, _no_seconds()
            redrawn, self._counts["redrawn"] = self._counts["redrawn"], 0
        return Figures(taken, redrawn)

    def absorb(self, figures: Figures) -> None:
        """Add what another process took."""
        self.add_seconds(figures.seconds)
        self.count("redrawn", figures.redrawn)

    def count(self, name: Literal["done", "failed", "redrawn", "lost_workers"], more: int = 1) -> None:
        """Count events, and bring the metrics file up to date now and then."""
        with self._lock:
            self._counts[name] += more
            due = time.monotonic() - self._written > _METRICS_INTERVAL_S
        if due:
            self.write_metrics()

    def queue_depth(self, change: int) -> None:
        """Volumes that entered (positive) or left the queue between sampling and writing."""
        with self._lock:
            self._queue_depth += change

    def snapshot(self) -> dict[str, Any]:
        """All figures as plain data."""
        with self._lock:
            counts = {name: self._counts[name] for name in ("done", "failed", "redrawn", "lost_workers")}
            return {
                "total": self.total,
                **counts,
                "queue_depth": self._queue_depth,
                "elapsed_seconds": time.monotonic() - self._started,
                "stage_seconds": dict(self._seconds),
            }

    def start_metrics(self) -> None:
        """Write the metrics file for the first time.

        Raises:
            UsageError: it cannot be written.
        """
        if self._metrics_file is not None:
            try:
                write_atomic(self._metrics_file, prometheus_text(self.snapshot()).encode())
            except OSError as error:
                raise UsageError(
                    f"--metrics-file {self._metrics_file}: cannot be written ({error.strerror}); "
                    "give a file in a folder that can"
                ) from error

    def write_metrics(self) -> None:
        """Write the metrics file, whole or not at all; one that fails is told once, and keeps what it held."""
        self._written = time.monotonic()
        if self._metrics_file is None:
            return
        try:
            with self._metrics_lock:
                write_atomic(self._metrics_file, prometheus_text(self.snapshot()).encode())
            self._failing = False
        except OSError as error:
            if not self._failing:
                logging.getLogger("sbldm").warning(
                    f"--metrics-file {self._metrics_file}: cannot be written now ({error.strerror}); the run goes on"
                )
            self._failing = True


def prometheus_text(figures: dict[str, Any]) -> str:
    """Figures of `Telemetry.snapshot` in the Prometheus text exposition format, version 0.0.4."""
    from prometheus_client import CollectorRegistry, Metric, generate_latest

    metrics: list[Metric] = []

    def metric(name: str, kind: str, text: str, values: dict[str, float]) -> None:
        found = Metric(f"{_PREFIX}_{name}", text, kind)
        sample = f"{found.name}_total" if kind == "counter" else found.name
        for stage, value in values.items():
            found.add_sample(sample, {"stage": stage} if stage else {}, value)
        metrics.append(found)

    metric("volumes_wanted", "gauge", "Volumes that this process was started for.", {"": figures["total"]})
    metric("volumes_done", "counter", "Volumes written and recorded.", {"": figures["done"]})
    metric("volumes_failed", "counter", "Volumes that failed and were recorded as such.", {"": figures["failed"]})
    metric("volumes_redrawn", "counter", "Draws that --reject refused.", {"": figures["redrawn"]})
    metric("workers_lost", "counter", "Worker processes that died.", {"": figures["lost_workers"]})
    metric("queue_depth", "gauge", "Volumes between sampling and writing.", {"": figures["queue_depth"]})
    metric("elapsed_seconds", "gauge", "Seconds since the start.", {"": figures["elapsed_seconds"]})
    metric("stage_seconds", "counter", "Seconds spent in each stage, over all threads.", figures["stage_seconds"])
    registry = CollectorRegistry()
    registry.register(_Collected(metrics))
    return _EXACT.sub(lambda found: f" {float(found[1])!r}".removesuffix(".0"), generate_latest(registry).decode())


class _Collected:
    """Metrics that are at hand."""

    def __init__(self, metrics: list[Any]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Any]:
        return self._metrics


class EventLog:
    """Log lines on a stream: plain text, or one JSON object a line for collectors."""

    def __init__(self, form: LogFormat = "text", stream: TextIO | None = None) -> None:
        self.as_json = form == "json"
        self._stream: TextIO | None = stream if stream is not None else sys.stderr

    def event(self, event: str, level: Literal["info", "warning", "error"] = "info", **fields: Any) -> None:
        """Write one event with its fields; a stream that is full, closed or gone ends nothing."""
        if self._stream is None:  # closed before the start: print would take stdout
            return
        if self.as_json:
            data = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "level": level,
                "event": event,
                **fields,
            }
            text = json.dumps(data, default=str)
        else:
            detail = " ".join(f"{name}={value}" for name, value in fields.items())
            text = shown(f"{level}: {event}{' ' + detail if detail else ''}")
        with suppress(OSError, ValueError):
            print(text, file=self._stream, flush=True)

    @contextmanager
    def of_libraries(self, quiet: bool = False) -> Iterator[None]:
        """What the engine logs and Python warns of meanwhile, as events; signs of life unless `quiet`."""
        handler = _EventHandler(self)
        logger = logging.getLogger("sbldm")
        level = logger.level
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
        logger.addHandler(handler)
        usual = warnings.showwarning
        if self.as_json:
            warnings.showwarning = self._show_warning
        try:
            yield
        finally:
            warnings.showwarning = usual
            logger.removeHandler(handler)
            logger.setLevel(level)

    def _show_warning(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        self.event(str(message), "warning", category=category.__name__)


class _EventHandler(logging.Handler):
    """Records of a logger as events."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level: Literal["info", "warning", "error"] = "info"
        if record.levelno >= logging.WARNING:
            level = "error" if record.levelno >= logging.ERROR else "warning"
        self._log.event(record.getMessage(), level)
