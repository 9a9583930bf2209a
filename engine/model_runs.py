"""Runs of a model that are under way in this process, so that another thread can end them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import SbldmError

_lock = threading.Lock()
_enders: dict[int, Callable[[], object]] = {}  # of the runs that are under way


class RunTerminatedError(SbldmError):
    """A model run was ended by `terminate_model_runs`."""

    exit_code = 130


@contextmanager
def ended_by(end: Callable[[], object]) -> Iterator[None]:
    """A model run that `end`, called from another thread, makes raise."""
    with _lock:
        _enders[id(end)] = end
    try:
        yield
    finally:
        with _lock:
            del _enders[id(end)]


def terminate_model_runs() -> None:
    """End the model runs that are under way: each raises, within one node of its graph."""
    with _lock:
        for end in _enders.values():
            end()
