"""What tests let the processes of a pool do."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any


def facts(context: Any) -> dict[str, Any]:
    """Process number, modules that are loaded, threads of linear algebra, threads that run."""
    return {
        "pid": os.getpid(),
        "modules": set(sys.modules),
        "blas": os.environ["OPENBLAS_NUM_THREADS"],
        "context": context,
    }


def write(context: Any, number: int, value: int) -> None:
    """Fills an array of a shared block."""
    context.arrays(number)["second"][:] = value


def fail(context: Any, text: str) -> None:
    """Raises what its caller is to see."""
    raise ValueError(text)


def die(context: Any, *_arguments: Any) -> None:
    """Ends as a process does that the system kills."""
    os.kill(os.getpid(), signal.SIGKILL)


def stay(context: Any, number: int | None = None) -> None:
    """Computes for ever; says so in a shared block."""
    if number is not None:
        write(context, number, 1)
    threading.Event().wait()
