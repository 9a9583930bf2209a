"""Standard streams that bear anything: closed, full or without a reader, any encoding, any terminal."""

from __future__ import annotations

import errno
import io
import os
import select
import shutil
import sys
from typing import Any

NARROWEST = 80  # columns of a terminal below which the help would cut the names of options

_FULL_PIPE_S = 1.0  # between two looks at a full pipe


class _Raw(io.RawIOBase):
    """A file descriptor; what it refuses with one of `dropped` (None: anything) is lost in silence."""

    def __init__(self, descriptor: int, dropped: frozenset[int] | None) -> None:
        self._descriptor, self._dropped = descriptor, dropped

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        total = len(rest)
        try:
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:  # a pipe that another process made non-blocking, and that is full
                    select.select([], [self._descriptor], [], _FULL_PIPE_S)
        except OSError as error:
            if self._dropped is not None and error.errno not in self._dropped:
                raise
        return total


def settle_streams() -> None:
    """Replace stdout and stderr of this process.

    A stream that was closed becomes /dev/null, so that no other file gets its number. Progress and warnings are
    dropped where stderr cannot take them; results where their reader has gone. Characters that the encoding lacks are
    written as escapes.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = _stream(sys.stdout, 1, frozenset({errno.EPIPE}))
    sys.stderr = _stream(sys.stderr, 2, None)
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ.setdefault("TERMINAL_WIDTH", str(NARROWEST))


def _stream(old: Any, descriptor: int, dropped: frozenset[int] | None) -> io.TextIOWrapper:
    encoding = getattr(old, "encoding", None) or "utf-8"
    raw: Any = _Raw(descriptor, dropped)
    return io.TextIOWrapper(
        raw, encoding, errors="backslashreplace", line_buffering=descriptor == 2 or os.isatty(descriptor)
    )
