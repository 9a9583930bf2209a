"""The end of this process on a signal, whatever it is doing: model runs are ended, then the process is."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from .model_runs import terminate_model_runs
from .portable import end_signals

STOP_S = 4.0
"""Seconds that a process has to end in an orderly way after a signal."""
_SIGNALS = end_signals()
_INTERRUPTED = 130


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """INT, TERM and HUP raise KeyboardInterrupt in the block; where that does not end it in time, exit code 130.

    For the main thread. A signal that is ignored, as HUP is under `nohup`, stays ignored.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    caught = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    done = threading.Event()
    for number in caught:
        signal.signal(number, _interrupt)
    old = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(woken, done, frozenset(caught)), name="stopping", daemon=True).start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(old)
        for number in caught:
            signal.signal(number, before[number])
        wake.close()


def end_process(code: int, message: str) -> None:
    """End this process and its workers at once, whatever its threads do."""
    with suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)
    from multiprocessing import active_children

    for child in active_children():
        child.kill()
    os._exit(code)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _watch(woken: socket.socket, done: threading.Event, numbers: frozenset[int]) -> None:
    with woken:
        while received := woken.recv(16):  # empty once the other end is closed
            if numbers.isdisjoint(received):
                continue
            terminate_model_runs()  # the main thread may be in one, where no handler of a signal runs
            if not done.wait(STOP_S):
                end_process(_INTERRUPTED, "error: interrupted; a run can be gone on with by --resume")
