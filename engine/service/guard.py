"""Before any request is looked at: who asks, how often, how much, how slowly; after it: one log line."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from .logs import Figures, Logs
from .settings import Listening
from .tokens import Tokens

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ANYBODY = "anybody"
"""The client of what is open to all."""
_READS = ("GET", "HEAD")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""Content security policy of every answer: a page may have its own style, and nothing else."""
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_ASK = ((b"www-authenticate", b'Bearer realm="sbldm-engine"'), (b"www-authenticate", b'Basic realm="sbldm-engine"'))


class SlowReaderError(Exception):
    """Nobody takes an answer."""


class Rates:
    """A bucket of requests a client, refilled steadily."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._left: dict[str, tuple[float, float]] = {}  # by client: requests, and when they were counted

    def wait_s(self, client: str, now: float) -> float:
        """Take one request; 0, or the seconds after which there will be one."""
        left, before = self._left.get(client, (float(self._burst), now))
        left = min(left + (now - before) * self._rate, self._burst)
        self._left[client] = (left - 1 if left >= 1 else left, now)
        return 0.0 if left >= 1 else (1 - left) / self._rate


class Guard:
    """Lets through what a client with a token asks in measure; `scope["state"]["client"]` is its name.

    What lies at an address of `open_to_all` may be read without a token: it must say nothing of anybody. Without
    `login` a browser is not led to ask for client and token.
    """

    def __init__(
        self, app: App, settings: Listening, tokens: Tokens, logs: Logs, figures: Figures, policy: str = POLICY,
        open_to_all: frozenset[str] = frozenset(), *, login: bool = True,
    ) -> None:  # fmt: skip
        self.app, self.settings, self.tokens = app, settings, tokens
        self.headers = (*_HEADERS, (b"content-security-policy", policy.encode("ascii")))
        self._open, self._ask = open_to_all, _ASK if login else ()
        self._logs, self._figures = logs, figures
        self._rates = Rates(settings.rate, settings.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        request = _Request(self, scope, receive, send)
        began = time.monotonic()
        client = self._client(scope)
        try:
            if not await self._refused(scope, client, request):
                scope.setdefault("state", {})["client"] = client
                await self.app(scope, request.receive, request.send)
        except SlowReaderError:
            self._figures.refused("too slow")
        except Exception as error:  # noqa: BLE001 - the border of a request: others go on
            self._logs.event("unexpected fault", "error", kind=type(error).__name__, at=_place(error))
            if request.status == 0:
                await request.answer(500, "unexpected fault of the service; its operator finds it in the log")
        self._tell(scope, client, request.status, time.monotonic() - began)

    def _client(self, scope: Scope) -> str | None:
        if scope["path"] in self._open and scope["method"] in _READS:
            return ANYBODY
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        return self.tokens.of_header(values[0], reads=scope["method"] in _READS) if len(values) == 1 else None

    async def _refused(self, scope: Scope, client: str | None, request: _Request) -> bool:
        """Whether a request was answered with a refusal before anything of it was read."""
        if client is None:
            self._figures.refused("no token")
            await request.answer(401, "give a token: Authorization: Bearer TOKEN", self._ask)
            return True
        wait = self._rates.wait_s(client, time.monotonic())
        if wait > 0:
            self._figures.refused("too many requests")
            after = (b"retry-after", str(int(wait) + 1).encode())
            await request.answer(429, f"more than {self.settings.rate:g} requests a second", (after,))
            return True
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 15 or int(length) > request.most:
            self._figures.refused("too large")
            await request.answer(413, f"at most {request.most} bytes are taken")
            return True
        return False

    def _tell(self, scope: Scope, client: str | None, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._figures.answered(method, route, status, seconds)
        job = scope.get("path_params", {}).get("job_id") if status < 400 else None
        self._logs.event(
            "request", method=method, route=route, status=status, seconds=round(seconds, 4), client=client, job=job
        )


class _Request:
    """The two ends of a request, bounded in size and in time."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        settings = guard.settings
        is_upload = scope["method"] == "PUT"
        self.most = settings.upload_bytes if is_upload else settings.request_bytes
        self.status = 0  # of the answer; 0 before it has begun
        self._slow_s, self._receive, self._send = settings.chunk_s, receive, send
        self._figures, self._headers = guard._figures, guard.headers
        self._read, self._more = 0, True

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part of the body; HTTPException where it is too large in all, or too long in coming."""
        if not self._more:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._slow_s)
        except TimeoutError:
            self._figures.refused("too slow")
            raise HTTPException(408, f"nothing was sent for {self._slow_s:g} s") from None
        self._read += len(message.get("body", b""))
        self._more = message.get("more_body", False)
        if self._read > self.most:
            self._figures.refused("too large")
            raise HTTPException(413, f"at most {self.most} bytes are taken")
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send a part of the answer; SlowReaderError where nobody takes it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        try:
            await asyncio.wait_for(self._send(message), self._slow_s)
        except TimeoutError:
            raise SlowReaderError from None

    async def answer(self, status: int, error: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """Answer with an error, without the application."""
        body = json.dumps({"error": error}).encode()
        kind = ((b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.start", "status": status, "headers": [*kind, *headers]})
        await self.send({"type": "http.response.body", "body": body})


def _place(error: BaseException) -> str:
    """File and line where an exception arose, without its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "unknown" if trace is None else f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
