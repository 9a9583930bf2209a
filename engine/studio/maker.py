"""Who makes volumes, and when: one at a time, the newest wish of a pane first, none twice."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ..errors import SbldmError
from ..generator import Cancelled
from .made import Made

CACHE_BYTES = 64 * 10**6
_LOOK_S = 0.05  # between two looks whether what waits for its turn is still wanted

Pane = tuple[str, str]  # page, and where in it
Make = Callable[[threading.Event], Made]


@dataclass
class _Work:
    """A volume that is being made, and the panes that wait for it."""

    panes: set[Pane]
    given: str | None  # id of what it is made from, where a page dropped that
    stop: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)
    made: Made | None = None
    error: BaseException | None = None


class Maker:
    """Makes volumes by their key; what was made is kept up to a number of bytes, the least used is dropped first."""

    def __init__(self, cache_bytes: int = CACHE_BYTES) -> None:
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._works: dict[str, _Work] = {}
        self._kept: OrderedDict[str, Made] = OrderedDict()
        self._bytes, self._most = 0, cache_bytes

    def make(self, key: str, pane: Pane, make: Make, given: str | None = None) -> Made:
        """The volume of a key, made by `make` unless it is there or on its way.

        What the pane waited for before is given up; where no other pane waits for it, it ends at its next step.

        Raises:
            Cancelled: the pane wants something newer.
            SbldmError, MemoryError: of `make`.
        """
        with self._lock:
            self._leave(pane, but=key)
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
            work = self._works.get(key)
            is_new = work is None or work.stop.is_set()
            if work is None or is_new:
                work = self._works[key] = _Work({pane}, given)
            work.panes.add(pane)
        if is_new:
            self._work(key, work, make)
        work.done.wait()
        if work.made is None:
            raise work.error or Cancelled("cancelled")
        with self._lock:
            if pane not in work.panes:
                raise Cancelled("cancelled")
        return work.made

    def leave(self, page: str) -> None:
        """Give up all that a page waits for."""
        with self._lock:
            for pane in [pane for work in self._works.values() for pane in work.panes if pane[0] == page]:
                self._leave(pane)

    def get(self, key: str) -> Made | None:
        """A kept volume."""
        with self._lock:
            return self._kept.get(key)

    def forget(self, given: Collection[str]) -> None:
        """Drop volumes that were made from what pages dropped, by its ids, and end what is being made of it."""
        with self._lock:
            for work in self._works.values():
                if work.given in given:
                    work.stop.set()
            for key in [key for key, made in self._kept.items() if made.given in given]:
                self._bytes -= self._kept.pop(key).bytes

    def close(self) -> None:
        """End what is being made."""
        with self._lock:
            for work in self._works.values():
                work.stop.set()

    def _leave(self, pane: Pane, but: str = "") -> None:
        for key, work in self._works.items():
            if key != but and pane in work.panes:
                work.panes.discard(pane)
                if not work.panes:
                    work.stop.set()

    def _work(self, key: str, work: _Work, make: Make) -> None:
        try:
            while not self._turn.acquire(timeout=_LOOK_S):
                if work.stop.is_set():
                    raise Cancelled("cancelled")
            try:
                work.made = make(work.stop)
            finally:
                self._turn.release()
        except (SbldmError, MemoryError) as error:
            work.error = error
        finally:
            with self._lock:
                if self._works.get(key) is work:
                    del self._works[key]
                if work.made is not None and not work.stop.is_set():  # else its page may be gone, and what it dropped
                    self._keep(key, work.made)
            work.done.set()

    def _keep(self, key: str, made: Made) -> None:
        self._kept[key] = made
        self._bytes += made.bytes
        while self._bytes > self._most and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].bytes
