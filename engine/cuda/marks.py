"""Names for stretches of work, as NVIDIA's profilers show them (NVTX), where the package nvtx is installed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from typing import Any

DOMAIN = "sbldm-engine"


def marked(name: str) -> AbstractContextManager[Any]:
    """A range around what a block queues or waits for; without a profiler it costs about a microsecond."""
    annotate = _annotate()
    return nullcontext() if annotate is None else annotate(name, domain=DOMAIN)


@cache
def _annotate() -> Any:
    try:
        return import_module("nvtx").annotate
    except ImportError:
        return None
