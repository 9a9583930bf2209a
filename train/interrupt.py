"""An interrupt that waits for the end of a training step, so that what is saved is a whole step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def held_interrupts(hold: bool) -> Iterator[threading.Event]:
    """While open, the first SIGINT or SIGTERM only sets the event; the second raises KeyboardInterrupt at once.

    Nothing is held without `hold`, nor outside of the main thread, which alone may set handlers.
    """
    asked = threading.Event()
    if not hold or threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(_signal: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
