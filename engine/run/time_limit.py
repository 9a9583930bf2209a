"""A limit of time on making samples in this process: a model run that exceeds it is ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..model_runs import terminate_model_runs

SAMPLE_TIMEOUT_S = 3600.0
"""Seconds that a sample may take where nothing else is said."""
GRACE_S = 10.0
"""Seconds that a model run has to end when it was told to."""


class TimeLimit:
    """Ends the model run of a block that takes too long.

    Args:
        seconds: that one sample may take.
        stuck: called, in another thread, when the model run did not end within `GRACE_S`; it is to end the process.
    """

    def __init__(self, seconds: float, stuck: Callable[[list[int]], None]) -> None:
        self._seconds, self._stuck = seconds, stuck

    @contextmanager
    def on(self, samples: list[int]) -> Iterator[threading.Event]:
        """Limit a block that makes these samples; the event says whether the time was up."""
        done, expired = threading.Event(), threading.Event()

        def watch() -> None:
            if done.wait(self._seconds * len(samples)):
                return
            expired.set()
            terminate_model_runs()
            if not done.wait(GRACE_S):
                self._stuck(samples)

        threading.Thread(target=watch, name="time-limit", daemon=True).start()
        try:
            yield expired
        finally:
            done.set()
