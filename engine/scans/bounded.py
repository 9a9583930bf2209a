"""Bytes of files that nobody vouches for: regular files only, sizes bounded before they are read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from isal import isal_zlib

MAX_JSON_BYTES = 64 * 2**20
MAX_FILE_BYTES = 2 * 2**30
GZIP_MAGIC = b"\x1f\x8b"
_DAMAGED: type[Exception] = isal_zlib.IsalError  # pyright: ignore[reportAssignmentType] - its stub has an instance
_SLACK = 2**20  # decompressed bytes that may follow the voxels


class UnusableFileError(Exception):
    """Why a file cannot be used, as a message goes on after its name."""


def read_regular(path: Path, limit: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; links to one are followed.

    Raises:
        UnusableFileError: no such file, no regular file (a pipe, a device, a folder), too large, or not readable.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UnusableFileError(f"unreadable ({error.strerror})") from error
    except ValueError as error:
        raise UnusableFileError(f"unreadable ({error})") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise UnusableFileError("unreadable (no regular file)")
    with os.fdopen(descriptor, "rb", buffering=0) as handle:
        if status.st_size > limit:
            raise UnusableFileError(f"has {status.st_size} bytes, at most {limit} are read")
        try:
            content = handle.readall()
        except OSError as error:
            raise UnusableFileError(f"unreadable ({error.strerror})") from error
    return content or b""


class Inflating:
    """The decompressed bytes of a file, taken in order; gzip of any number of members, or plain bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._is_gzip = content[:2] == GZIP_MAGIC
        self._member = isal_zlib.decompressobj(wbits=31)
        self._at = 0  # of plain bytes

    def take(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end; UnusableFileError where they are damaged."""
        if not self._is_gzip:
            part = self._content[self._at : self._at + count]
            self._at += len(part)
            return part
        parts: list[bytes] = []
        missing = count
        while missing > 0:
            try:
                part = self._member.decompress(self._content, missing)
            except _DAMAGED as error:
                raise UnusableFileError(f"unreadable (damaged gzip: {error})") from error
            self._content = self._member.unconsumed_tail
            missing -= len(part)
            parts.append(part)
            if self._member.eof:
                rest = self._member.unused_data
                if rest[:2] != GZIP_MAGIC:
                    break
                self._content, self._member = rest, isal_zlib.decompressobj(wbits=31)
            elif not part:
                raise UnusableFileError("unreadable (the gzip stream ends too early)")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def finish(self) -> None:
        """Read to the end, which checks the checksum; what follows the voxels may be short only."""
        if len(self.take(_SLACK + 1)) > _SLACK:
            raise UnusableFileError("unreadable (more bytes than its header says)")


class Passing:
    """A file that passes by in parts: its decompressed bytes are counted and checked, not kept.

    Raises:
        UnusableFileError: (of `take` and `finish`) it is damaged, or does not hold `wanted` bytes and a little more.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted, self._count = wanted, 0
        self._is_gzip: bool | None = None  # None before the first bytes
        self._member = isal_zlib.decompressobj(wbits=31)

    def take(self, part: bytes) -> None:
        """The next bytes of the file; the first part has two or more."""
        if self._is_gzip is None and part:
            self._is_gzip = part[:2] == GZIP_MAGIC
        if not self._is_gzip:
            self._add(len(part))
        while self._is_gzip and part:
            if self._member.eof:
                if part[:2] != GZIP_MAGIC[: len(part)]:
                    return  # what follows the last member is no part of it
                self._member = isal_zlib.decompressobj(wbits=31)
            try:
                self._add(len(self._member.decompress(part, _SLACK)))
            except _DAMAGED as error:
                raise UnusableFileError(f"unreadable (damaged gzip: {error})") from error
            part = self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def finish(self) -> None:
        """There is no more."""
        while self._is_gzip and not self._member.eof:
            try:
                more = self._member.decompress(b"", _SLACK)
            except _DAMAGED as error:
                raise UnusableFileError(f"unreadable (damaged gzip: {error})") from error
            if not more and not self._member.eof:
                raise UnusableFileError("unreadable (the gzip stream ends too early)")
            self._add(len(more))
        if self._count < self._wanted:
            raise UnusableFileError(f"unreadable ({self._count} bytes, its header says {self._wanted})")

    def _add(self, count: int) -> None:
        self._count += count
        if self._count > self._wanted + _SLACK:
            raise UnusableFileError("unreadable (more bytes than its header says)")
