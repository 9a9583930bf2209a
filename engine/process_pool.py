"""A pool of processes that compute beside a device: started anew, never forked, and gone with this process.

They import what they are told to compute and nothing else, so that no driver is ever touched in them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from .errors import IncompleteRunError
from .portable import end_signals
from .processes import end_processes, end_with_parent, start_process

_LIBRARY_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_END_S = 1.0  # that a process has to end when it is told to

C = TypeVar("C")
T = TypeVar("T")


@dataclass(frozen=True)
class _Helper:
    process: Any
    connection: Any  # this process's end of a pipe


class ProcessPool(Generic[C]):
    """`count` processes that hold `context`, each with one thread of linear algebra.

    Raises:
        OSError: they cannot be started.
    """

    def __init__(self, count: int, context: C) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._helpers: list[_Helper] = []
        self._idle: SimpleQueue[_Helper] = SimpleQueue()
        self._lost: str | None = None  # what is told of a process that ended
        try:
            for _ in range(count):
                self._start(context)
        except OSError:
            self.close()
            raise

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """`function(context, *arguments)` in a process that is idle; for any thread, each waits for its own.

        Raises:
            IncompleteRunError: a process ended, this one or another before.
            Exception: what the function raised.
        """
        helper = self._idle.get()
        try:
            made, error = self._answer(helper, (function, arguments))
        finally:
            self._idle.put(helper)
        if error is not None:
            raise error
        return made

    def close(self) -> None:
        """End the processes, whatever they compute; calls that wait for them raise."""
        end_processes([helper.process for helper in self._helpers], _END_S)

    def _answer(self, helper: _Helper, message: object) -> tuple[Any, Exception | None]:
        if self._lost is None:
            try:
                helper.connection.send(message)
                return helper.connection.recv()
            except (EOFError, ConnectionError):
                helper.process.join(_END_S)
                self._lost = (
                    f"a process that works beside the GPU ended (exit status {helper.process.exitcode}); is memory "
                    "short? Go on with --resume, on fewer processors (taskset) or --threads for fewer such processes"
                )
        raise IncompleteRunError(self._lost)

    def _start(self, context: C) -> None:
        ours, theirs = self._context.Pipe()
        process = start_process(self._context, _serve, (_OneThread(), theirs, context))
        theirs.close()
        self._helpers.append(_Helper(process, ours))
        self._idle.put(self._helpers[-1])


class _OneThread:
    """Sets the threads of linear algebra where it is read, before what comes after it imports NumPy."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _set_environment, (dict.fromkeys(_LIBRARY_THREADS, "1"),)


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.update(variables)


def _serve(_set: None, connection: Connection, context: object) -> None:
    """Life of a process: receives (function, arguments), sends (what it made, None) or (None, what it raised)."""
    for number in end_signals():  # the parent ends us by TERM, whatever it was sent itself
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    end_with_parent()
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = function(context, *arguments), None
        except Exception as error:  # noqa: BLE001 - the border of the process: it is raised again in the parent
            answer = None, error
        connection.send(answer)
