"""Processes of ours inside other programs: scripts without a guard, notebooks, daemonic workers, no shared memory."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from .errors import UsageError

_main_lock = threading.Lock()


def require_children(workers: int) -> None:
    """UsageError where this process may not have others below it, as a worker of a pool may not."""
    if workers > 1 and multiprocessing.current_process().daemon:
        raise UsageError(
            f"--workers {workers}: this process is daemonic (a worker of a pool, of Celery, of Airflow) and may not "
            "start others; use --workers 1, or ask from a process that is not"
        )


def sharing_workers(workers: int) -> int:
    """`workers`, or 1, told in the log, where a pool of processes cannot be had."""
    if workers <= 1:
        return workers
    why = "this process is daemonic" if multiprocessing.current_process().daemon else _no_semaphores()
    if why is None:
        return workers
    logging.getLogger("sbldm").warning(f"one process instead of {workers}: {why}")
    return 1


def start_process(context: Any, target: Callable[..., object], arguments: tuple[Any, ...]) -> Any:
    """A started daemonic process of a `spawn` context that does not run the program's main module again.

    Python would, and a script without `if __name__ == "__main__"` would then start itself without end.
    """
    process = context.Process(target=target, args=arguments, daemon=True)
    with _no_main():
        process.start()
    return process


def end_processes(processes: Sequence[Any], seconds: float) -> None:
    """End started processes: told to all at once, and killed where one, which may be stopped, has not ended in time."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(seconds)
        process.kill()
        process.join()


def end_with_parent() -> None:
    """End this process, from a thread, once the one that started it is gone; for processes of `multiprocessing`."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _no_main() -> Iterator[None]:
    with _main_lock:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _no_semaphores() -> str | None:
    """Why processes cannot share a lock; None where they can."""
    try:
        multiprocessing.get_context("spawn").Lock()
    except (OSError, ImportError, NotImplementedError) as error:
        return f"no semaphores can be made ({error}); is /dev/shm writable?"
    return None
