"""Log lines and figures of a service: written by a thread of their own, so that no reader of them holds up a request.

Nothing in them is from a request but its method, its route's pattern, the client's name and a job's id: ids of
conditions, names of files and texts of faults may tell of patients.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..telemetry import EventLog

_HELD = 10_000  # lines that wait; more are counted and dropped
_END_S = 1.0
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)
Level = Literal["info", "warning", "error"]


class Logs(logging.Handler):
    """One JSON object a line on a log's stream; also what libraries log, without their tracebacks."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.INFO)
        self._log = log
        self._lines: queue.Queue[tuple[str, Level, dict[str, Any]] | None] = queue.Queue(_HELD)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="logs", daemon=True)
        self._thread.start()

    def event(self, event: str, level: Level = "info", **fields: Any) -> None:
        """Write a line soon; never waits."""
        try:
            self._lines.put_nowait((event, level, fields))
        except queue.Full:
            self._dropped += 1

    def emit(self, record: logging.LogRecord) -> None:
        """A record of a logger as a line: its message alone."""
        levels: dict[bool, Level] = {True: "warning", False: "info"}
        level: Level = "error" if record.levelno >= logging.ERROR else levels[record.levelno >= logging.WARNING]
        self.event(record.getMessage().strip(), level)

    def close(self) -> None:
        """Write what waits, for a second at most."""
        if self._thread.is_alive():
            try:
                self._lines.put(None, timeout=_END_S)
            except queue.Full:
                return
            self._thread.join(_END_S)
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            event, level, fields = line
            self._log.event(event, level, **fields)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._log.event("log lines were dropped: their reader is slow", "warning", lines=dropped)


class Figures:
    """What a service counts, in Prometheus text format; `states` gives jobs by state, `made` samples so far."""

    def __init__(self, states: Callable[[], dict[Any, int]], made: Callable[[], int]) -> None:
        self._states, self._made = states, made
        self._registry = CollectorRegistry()
        of = {"registry": self._registry, "namespace": "sbldm_service"}
        self._requests = Counter("requests", "Requests answered.", ["method", "route", "status"], **of)
        self._seconds = Histogram(
            "request_seconds", "From a request's first byte to its answer's last.", ["route"], buckets=_BUCKETS, **of
        )
        self._refused = Counter("refused", "Requests refused, by reason.", ["reason"], **of)
        self._jobs = Gauge("jobs", "Jobs that are kept.", ["state"], **of)
        self._samples = Gauge("samples_made", "Samples made since the start of the service.", **of)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a refusal."""
        self._refused.labels(reason).inc()

    def text(self) -> str:
        """All figures."""
        for state, count in self._states().items():
            self._jobs.labels(state).set(count)
        self._samples.set(self._made())
        return generate_latest(self._registry).decode()
