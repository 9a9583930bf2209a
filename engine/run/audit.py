"""The audit trail `audit.jsonl`: who did what to a run, when, where, with which result; the only file with a clock.

One JSON line an event, appended and synced. Each line holds the sha256 of the line before (`previous`) and of its own
content (`sha256`), so that one that was changed, removed or put in shows when the chain is checked. Whoever can write
the file can also write it all anew, or cut its end: keep the hash of the last line (the head) elsewhere to notice that.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

from ..decode import decode
from ..errors import InvalidInputError, SbldmError
from ..folder import Folder
from ..locked_files import LockedFile
from ..locks import LockHeldError
from ..portable import user_name

AUDIT_NAME = "audit.jsonl"
ENDED = " ended"  # of the event that ends what was begun, when it came out well
FIRST = "0" * 64  # `previous` of the first line
MAX_LINE_BYTES = 1 << 20
_SHOWN = 20  # faults that are told
_WAIT_S = 10.0  # for a process that writes its line
_ARGUMENTS, _CHARACTERS = 64, 1000  # of a command line, and of each of its arguments, that are kept
_log = logging.getLogger("sbldm")


@dataclass(frozen=True)
class Actor:
    """On whose behalf this process works."""

    command: tuple[str, ...]
    client: str | None = None  # of the service


_actor: ContextVar[Actor | None] = ContextVar("actor", default=None)


@dataclass(frozen=True)
class AuditLine:
    """One event."""

    previous: str  # hex sha256 of the line before, without its line end
    time: str  # UTC, ISO 8601
    event: str  # the verb and how it stands: "generate started", "generate ended"
    user: str  # of the operating system
    client: str | None  # of the service, where it was asked by one
    host: str
    process: int
    command: tuple[str, ...]  # the command line
    subject: dict[str, Any]  # what it was done to: run, bundle, versions, hashes of what was read
    outcome: dict[str, Any] | None  # None of what has just begun

    def to_line(self) -> bytes:
        """The line with its own hash and its end."""
        content = json.dumps(asdict(self), separators=(",", ":"), allow_nan=False)
        return f'{content[:-1]},"sha256":"{_sha256(content.encode())}"}}\n'.encode()


@dataclass(frozen=True)
class Chain:
    """What checking a trail found."""

    lines: int
    head: str  # hash of the last line; `FIRST` where there is none
    last: AuditLine | None  # None also where it cannot be read
    faults: tuple[str, ...]


@contextmanager
def acting(command: Sequence[str], client: str | None = None) -> Iterator[None]:
    """What this thread does meanwhile is recorded as done by this command line, for this client."""
    token = _actor.set(Actor(_kept(command), client))
    try:
        yield
    finally:
        _actor.reset(token)


@contextmanager
def audited(folder: Folder, subject: dict[str, Any], verb: str) -> Iterator[dict[str, Any]]:
    """A line before the block and one after it; the block adds to the outcome that it is given.

    What leaves the block by an exception is recorded by its class and exit code.

    Raises:
        OSError: the trail cannot be written.
        LockHeldError: another process holds it for longer than a line takes.
    """
    outcome: dict[str, Any] = {}
    append(folder, subject, f"{verb} started", None)
    try:
        yield outcome
    except BaseException as error:
        code = error.exit_code if isinstance(error, SbldmError) else 1
        told = {**outcome, "error": type(error).__name__, "exit_code": code}
        with suppress(OSError, SbldmError):
            append(folder, subject, f"{verb} failed", told)
        raise
    append(folder, subject, f"{verb}{ENDED}", outcome)


def append(folder: Folder, subject: dict[str, Any], event: str, outcome: dict[str, Any] | None) -> str:
    """Add a line to the trail of a directory, made if absent; returns the line's hash. Errors: see `audited`."""
    actor = _actor.get() or Actor(_kept(sys.argv))
    with _locked(folder) as file:
        file.cut_torn_line()
        previous = _head_of(file)
        line = AuditLine(
            previous, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), event, user_name(), actor.client,
            socket.gethostname(), os.getpid(), actor.command, subject, outcome,
        ).to_line()  # fmt: skip
        file.append(line)
        if previous == FIRST:
            file.sync_name()
    _log.debug(f"{event}: recorded in {AUDIT_NAME}")
    return _sha256(line.rstrip(b"\n"))


def check_chain(folder: Folder) -> Chain | None:
    """The chain of a directory's trail, checked from its first line; None where there is no trail.

    Raises:
        OSError: it cannot be read.
    """
    if folder.status(AUDIT_NAME) is None:
        return None
    faults, head, last, lines = list[str](), FIRST, None, 0
    with folder.reading(AUDIT_NAME) as handle:
        while raw := handle.readline(MAX_LINE_BYTES):
            lines += 1
            where = f"{AUDIT_NAME}:{lines}"
            try:
                last = _parsed(raw)
            except InvalidInputError as error:
                faults.append(f"{where}: {error}")
                last = None
            if last is not None and last.previous != head:
                faults.append(f"{where}: does not follow the line before it; lines were removed, changed or put in")
            head = _sha256(raw.rstrip(b"\n"))
    more = [f"and {len(faults) - _SHOWN} more lines"] if len(faults) > _SHOWN else []
    return Chain(lines, head, last, (*faults[:_SHOWN], *more))


def _parsed(raw: bytes) -> AuditLine:
    """The event of a line; InvalidInputError where it is none, or not as it was written."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError("is no JSON; it was changed, or its end was cut") from error
    if not isinstance(data, dict):
        raise InvalidInputError("is no event")
    data.pop("sha256", None)
    line = decode(AuditLine, data, "is no event")
    if line.to_line() != raw:
        raise InvalidInputError("its sha256 does not fit its content, so it was changed")
    return line


@contextmanager
def _locked(folder: Folder) -> Iterator[LockedFile]:
    give_up = time.monotonic() + _WAIT_S
    while True:
        try:
            file = folder.appending(AUDIT_NAME)
            break
        except LockHeldError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.01)
    try:
        yield file
    finally:
        file.close()


def _head_of(file: LockedFile) -> str:
    """Hash of the last line of a file that ends with a line end."""
    end = file.size()
    if end == 0:
        return FIRST
    start = max(end - MAX_LINE_BYTES, 0)
    return _sha256(os.pread(file.descriptor, end - start - 1, start).rpartition(b"\n")[2])


def _kept(command: Sequence[str]) -> tuple[str, ...]:
    return tuple(argument[:_CHARACTERS] for argument in command[:_ARGUMENTS])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
