"""Backends run a bundle's components; `choose_backend` picks one and never falls back silently."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..errors import BackendUnavailableError, UsageError

BACKENDS = ("onnxruntime", "openvino", "tensorrt")


class Backend(Protocol):
    """Runs components; the attributes are recorded in run.json."""

    name: str
    device: str
    precision: str
    threads: int
    version: str

    def run(self, component: str, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Outputs of a component by name."""
        ...


def available_threads() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def choose_backend(
    bundle: Bundle, name: str = "auto", device: str = "auto", precision: str = "auto", threads: int | None = None
) -> Backend:
    """The backend that was asked for, or the first of this machine's for `auto`.

    Args:
        bundle: the model to run.
        name: `auto` or one of `BACKENDS`.
        device: `auto`, `cpu`, `cuda` or `cuda:I`.
        precision: `auto`, or what the backend offers.
        threads: of the CPU; all that this process may use by default.

    Raises:
        UsageError: an unknown name, or a combination that no backend offers.
        BackendUnavailableError: what was asked for cannot run here.
    """
    if name not in ("auto", *BACKENDS):
        raise UsageError(f"--backend {name}: allowed auto, {', '.join(BACKENDS)}")
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and (kind != "cuda" or not index.isdigit())):
        raise UsageError(f"--device {device}: allowed auto, cpu, cuda, cuda:0, cuda:1, ...")
    from .onnxruntime import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend(bundle, "cpu" if kind in ("auto", "cpu") else f"cuda:{index or 0}", threads or available_threads())
    if precision not in ("auto", backend.precision):
        raise UsageError(f"--precision {precision}: this bundle holds {backend.precision} for onnxruntime")
    return backend
