"""The studio on an address of this machine, for as long as nobody ends it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from typing import Any

from ..service.logs import Level, Logs
from ..service.server import run_app
from ..service.settings import GIGABYTE, Listening
from ..service.tokens import LOCAL, Tokens
from ..telemetry import EventLog
from .app import create_app
from .studio import Studio


class _Faults(Logs):
    """What goes wrong alone: requests of the page are nobody's news."""

    def event(self, event: str, level: Level = "info", **fields: Any) -> None:
        if level != "info":
            super().event(event, level, **fields)


def run_studio(studio: Studio, port: int, opened: Callable[[str], None], log: EventLog) -> None:
    """Answer at 127.0.0.1 until a signal asks for the end; `opened` is told the page's address, its token included.

    Raises:
        UsageError: the port is out of range, or taken.
    """
    settings = Listening(port=port, upload_bytes=GIGABYTE, rate=200, burst=1000, chunk_s=60)
    token = secrets.token_urlsafe(32)
    tokens = Tokens({LOCAL: hashlib.sha256(token.encode()).hexdigest()})
    logs = _Faults(log)
    try:
        app = create_app(studio, settings, tokens, logs)
        listening = lambda address, bound: opened(f"http://{address}:{bound}/#{token}")  # noqa: E731
        run_app(app, settings, logs, listening, studio.generator.close)
    finally:
        logs.close()
