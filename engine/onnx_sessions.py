"""Sessions of ONNX Runtime: options with which equal inputs give equal bytes, and its errors as ours."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from .errors import BackendUnavailableError, DeviceMemoryError, InvalidInputError
from .memory_errors import says_out_of_memory
from .model_runs import RunTerminatedError, ended_by
from .versions import installed

if TYPE_CHECKING:
    import onnxruntime


_TERMINATED = "terminate flag"  # how ONNX Runtime says that it obeyed
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")
"""Distributions that bring the module `onnxruntime`; both at once overwrite each other's files."""


def import_onnxruntime() -> ModuleType:
    """The module.

    Raises:
        BackendUnavailableError: it is not installed, or cannot be loaded and why.
    """
    try:
        module = importlib.import_module("onnxruntime")
        if hasattr(module, "InferenceSession"):
            return module
        why = "its files are incomplete"
    except (ImportError, OSError, AttributeError) as error:
        why = str(error)
    found = [f"{name} {version}" for name in DISTRIBUTIONS if (version := installed(name))]
    if not found:
        raise BackendUnavailableError(
            'onnxruntime is not installed; install "sbldm-engine[cpu]" or "sbldm-engine[gpu]"'
        )
    raise BackendUnavailableError(
        f"{' and '.join(found)} cannot be loaded: {why}; "
        f'pip uninstall {" ".join(DISTRIBUTIONS)}, then pip install "sbldm-engine[cpu]" or "sbldm-engine[gpu]"'
    )


def both_installed() -> str | None:
    """What to do about `onnxruntime` and `onnxruntime-gpu` side by side; None where there is one at most."""
    found = [f"{name} {version}" for name in DISTRIBUTIONS if (version := installed(name))]
    if len(found) < 2:
        return None
    return (
        f"both installed: {' and '.join(found)} overwrite each other's files; "
        f"pip uninstall {' '.join(DISTRIBUTIONS)}, then install one of them"
    )


def fast_graph_name(file: str) -> str:
    """Name of the graph beside `file` that gives the same and suits ONNX Runtime on a CPU better."""
    return f"{file.removesuffix('.onnx')}.cpu.onnx"


@contextmanager
def terminable() -> Iterator[onnxruntime.RunOptions]:
    """Options for one run by which it can be ended from another thread; see `run_errors`."""
    options = importlib.import_module("onnxruntime").RunOptions()
    with ended_by(lambda: setattr(options, "terminate", True)):
        yield options


@contextmanager
def run_errors(what: str) -> Iterator[None]:
    """Errors of ONNX Runtime's own, and the RuntimeError of its IO binding, as ours; `what` ran.

    Raises:
        RunTerminatedError: it was ended by `terminate_model_runs`.
        DeviceMemoryError: the allocation of a tensor failed.
        BackendUnavailableError: it refused otherwise.
    """
    errors = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    try:
        yield
    except (errors.Fail, errors.EPFail, errors.RuntimeException, RuntimeError) as error:
        if _TERMINATED in str(error):
            raise RunTerminatedError(f"{what}: ended before it was done") from error
        if says_out_of_memory(str(error)):
            raise DeviceMemoryError(f"{what}: ONNX Runtime found no memory: {error}") from error
        raise BackendUnavailableError(f"{what}: ONNX Runtime refused: {error}") from error


@contextmanager
def load_errors(path: Path) -> Iterator[None]:
    """Errors of a session that is made, as ours; `path` is its graph.

    Raises:
        InvalidInputError: the graph cannot be loaded.
        DeviceMemoryError: there is no memory for it.
        BackendUnavailableError: its provider refuses it.
    """
    errors = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    try:
        yield
    except (
        errors.InvalidProtobuf, errors.InvalidGraph, errors.InvalidArgument, errors.NotImplemented,
        UnicodeDecodeError,  # a fault that quotes a damaged name
    ) as error:  # fmt: skip
        raise InvalidInputError(f"{path}: onnxruntime cannot load it: {error}") from error
    except (errors.Fail, errors.EPFail, errors.RuntimeException, RuntimeError) as error:
        if says_out_of_memory(str(error)):
            raise DeviceMemoryError(f"{path}: no memory to load it: {error}") from error
        raise BackendUnavailableError(f"{path}: onnxruntime refuses it: {error}") from error


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Options with which equal inputs give equal bytes.

    What a session frees goes back at once to whoever needs it next: an arena of its own, which each would keep, doubles
    the memory of a run and saves 3 % of its time (docs/benchmarks.md).
    """
    options = importlib.import_module("onnxruntime").SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads leave the CPU to others
    return options
