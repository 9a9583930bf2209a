"""The process that listens: uvicorn with bounds on connections, an end on signals, nothing looked up."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import UsageError
from ..portable import end_signals
from .app import create_app
from .logs import Logs
from .service import Service
from .settings import Listening

_GRACE_S = 1  # that answers under way have at the end
_KEEP_ALIVE_S = 5
_BACKLOG = 512
_LOGGERS = ("sbldm", "uvicorn.error", "asyncio")


def run_server(service: Service, listening: Callable[[str, int], None]) -> None:
    """`run_app` of a service."""
    run_app(create_app(service), service.settings, service.logs, listening)


def run_app(
    app: Any, settings: Listening, logs: Logs, listening: Callable[[str, int], None],
    ending: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Answer until a signal asks for the end; `listening` is told address and port once requests are taken.

    `ending` is called in the signal's handler: it must not wait for anything.

    Raises:
        UsageError: the address cannot be listened at.
    """
    config = uvicorn.Config(
        app, loop="asyncio", http=_connections(settings.header_s), ws="none", lifespan="off",
        log_config=None, access_log=False, proxy_headers=False, server_header=False,
        limit_concurrency=settings.connections, timeout_keep_alive=_KEEP_ALIVE_S, timeout_graceful_shutdown=_GRACE_S,
        backlog=_BACKLOG,
    )  # fmt: skip
    with _socket(settings.address, settings.port) as bound, _logged(logs):
        address, port = bound.getsockname()[:2]
        listening(address, port)
        _Server(config, ending).run([bound])


class _Server(uvicorn.Server):
    """A server that ends on a signal, and does not raise that signal again."""

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        def end(_signal: int, _frame: FrameType | None) -> None:
            self.should_exit = True
            self._ending()

        before = {number: signal.signal(number, end) for number in end_signals()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _connections(header_s: float) -> type[asyncio.Protocol]:
    """Connections that are closed where no whole request comes within `header_s` to twice that."""

    class Connection(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._before: Any = None
            self._timer = self.loop.call_later(header_s, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            super().connection_lost(exc)

        def _look(self) -> None:
            is_idle = self.cycle is None or self.cycle.response_complete
            if is_idle and self.cycle is self._before:
                self.transport.abort()
                return
            self._before = self.cycle
            self._timer = self.loop.call_later(header_s, self._look)

    return Connection


def _socket(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
        bound.listen(_BACKLOG)
        bound.set_inheritable(False)
    except OSError as error:
        bound.close()
        raise UsageError(
            f"{address}, --port {port}: cannot be listened at ({error.strerror}); --port 0 takes a free one"
        ) from error
    return bound


@contextmanager
def _logged(logs: Logs) -> Iterator[None]:
    """What libraries log goes to this log, without tracebacks."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [logs], False
        logger.setLevel(logging.INFO if logger.name == "sbldm" else logging.WARNING)
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
