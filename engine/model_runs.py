"""Runs of a model that are under way in this process, so that another thread can end them."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import SbldmError

if TYPE_CHECKING:
    import onnxruntime

_TERMINATED = "terminate flag"  # how ONNX Runtime says that it obeyed
_lock = threading.Lock()
_under_way: set[onnxruntime.RunOptions] = set()


class RunTerminatedError(SbldmError):
    """A model run was ended by `terminate_model_runs`."""

    exit_code = 130


@contextmanager
def terminable() -> Iterator[onnxruntime.RunOptions]:
    """Options for one run of ONNX Runtime by which it can be ended from another thread."""
    options = importlib.import_module("onnxruntime").RunOptions()
    with _lock:
        _under_way.add(options)
    try:
        yield options
    finally:
        with _lock:
            _under_way.discard(options)


def terminate_model_runs() -> None:
    """End the model runs that are under way: each raises, within one node of its graph."""
    with _lock:
        for options in _under_way:
            options.terminate = True


def says_terminated(message: str) -> bool:
    """Whether an error of ONNX Runtime is what `terminate_model_runs` asked for."""
    return _TERMINATED in message
