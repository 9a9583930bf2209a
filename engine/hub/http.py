"""A model index over HTTP: bounded answers, redirects within one scheme, no plain HTTP but to this machine."""

from __future__ import annotations

import http.client
import ipaddress
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, quote, urlsplit

from ..bundle.load import Bundle
from ..bundle.store import MANIFEST_NAME
from ..errors import IncompleteRunError, InvalidInputError, UsageError
from .index import INDEX_NAME, MAX_INDEX_BYTES, Offer, parse_index
from .remote import Stream, read_whole

TIMEOUT_S = 60.0
_PIECE = 1 << 20
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_BROKEN = (URLError, http.client.HTTPException, OSError)
_HEADERS = {"User-Agent": "sbldm-engine", "Accept-Encoding": "identity"}


class HttpRemote:
    """See `Remote`. `headers` are sent to the host of the address alone."""

    def __init__(self, address: str, headers: Mapping[str, str] | None = None) -> None:
        require_address(address)
        self.base = address.rstrip("/") + "/"
        self._headers = {**_HEADERS, **(headers or {})}

    def offer(self) -> Offer:
        """What `index.json` at the address lists."""
        where = f"{self.base}{INDEX_NAME}"
        return Offer(parse_index(read_whole(self, INDEX_NAME, MAX_INDEX_BYTES), where))

    @contextmanager
    def opened(self, path: str, start: int = 0) -> Iterator[Stream]:
        """A file below the address, from byte `start` on where the server sends parts."""
        url = self.base + quote(path)
        headers = {**self._headers, "Range": f"bytes={start}-"} if start else self._headers
        with _answer(url, headers) as answer:
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise InvalidInputError(f"{url}: came compressed, which was not asked for")
            is_part = answer.status == 206
            if is_part and not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise InvalidInputError(f"{url}: the server sent another part than was asked for")
            yield Stream(url, start if is_part else 0, _pieces(answer, url))

    def push(self, name: str, bundle: Bundle) -> bool:
        """UsageError: an index over HTTP is read only."""
        raise UsageError(
            f"{self.base}: an HTTP index is read only; push to the directory that it serves, or to hf://OWNER/REPOSITORY"
        )


def require_address(address: str) -> SplitResult:
    """The parts of an address that may be asked: https, or http on this machine; no user, no query.

    Raises:
        UsageError: it is none.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{address!r}: no address ({error})") from error
    shown = parts._replace(netloc=host or "").geturl() if "@" in parts.netloc else address
    if parts.scheme not in ("https", "http") or not host or any(ord(c) <= 32 or ord(c) > 126 for c in address):
        raise UsageError(f"{shown!r}: must be https://HOST/PATH, hf://OWNER/REPOSITORY or a directory")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UsageError(f"{shown!r}: a remote's address has no user, password, query or fragment")
    if parts.scheme == "http" and not _is_this_machine(host):
        raise UsageError(f"{shown!r}: plain http can be changed on its way, hashes too; give https://")
    return parts


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The next request: same scheme, and no credentials to another host."""
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        target = f"{req.full_url}: leads to {new.scheme}://{new.hostname}"
        if new.scheme != old.scheme:
            raise InvalidInputError(f"{target}, another scheme; refused")
        if new.scheme == "http" and not _is_this_machine(new.hostname or ""):
            raise InvalidInputError(f"{target}, another machine without https; refused")
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and (new.hostname, new.port) != (old.hostname, old.port):
            following.remove_header("Authorization")
        return following

    def http_error_302(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message) -> Any:
        """As the library does, which itself refuses other schemes than http, https and ftp; told in our words."""
        try:
            return super().http_error_302(req, fp, code, msg, headers)  # type: ignore[arg-type]
        except (HTTPError, ValueError) as error:
            told = (error.msg if isinstance(error, HTTPError) else str(error)).splitlines()[0]
            raise InvalidInputError(f"{req.full_url}: leads elsewhere ({told}); refused") from error

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _answer(url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    is_own = _is_this_machine(urlsplit(url).hostname or "")
    opener = urllib.request.OpenerDirector()
    for handler in (  # HTTP and HTTPS alone
        urllib.request.ProxyHandler({} if is_own else None),  # None: those of the environment
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    try:
        return opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=TIMEOUT_S)
    except HTTPError as error:
        raise _refused(url, error) from error
    except _BROKEN as error:
        raise _broken(url, error) from error


def _pieces(answer: http.client.HTTPResponse, url: str) -> Iterator[bytes]:
    while True:
        try:
            piece = answer.read(_PIECE)
        except _BROKEN as error:
            raise _broken(url, error) from error
        if not piece:
            break
        yield piece
    if answer.length:  # the library takes an early end for the end
        raise _broken(url, ConnectionError(f"ended {answer.length} bytes early"))


def _broken(url: str, error: Exception) -> IncompleteRunError:
    reason = error.reason if isinstance(error, URLError) else error
    return IncompleteRunError(f"{url}: cannot be read ({reason}); {_later(url)}")


def _refused(url: str, error: HTTPError) -> IncompleteRunError | InvalidInputError:
    if error.code in _PASSING:
        return IncompleteRunError(f"{url}: the server says {error.code}; {_later(url)}")
    if error.code in (401, 403):
        return InvalidInputError(f"{url}: the server says {error.code}; this needs a permission that you do not have")
    hint = (
        f"a remote is the address of a folder that holds {INDEX_NAME}, as `models push` writes it"
        if _is_named(url, INDEX_NAME)
        else f"{INDEX_NAME} promises this file, which is not there; tell who offers it"
    )
    return InvalidInputError(f"{url}: the server says {error.code}; {hint}")


def _later(url: str) -> str:
    """What to do about a file that may come another time; of a model, what came of it stays."""
    first = _is_named(url, INDEX_NAME) or _is_named(url, MANIFEST_NAME)
    return "give the same command again later" if first else "what came is kept, the same command goes on"


def _is_named(url: str, name: str) -> bool:
    return url.endswith(f"/{name}")
