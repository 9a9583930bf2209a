"""How a file comes to be: written beside its place, made lasting, then named; on descriptors of folders."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from .portable import clone_file

TEMPORARY_SUFFIX = ".tmp"
_NO_LINKS = frozenset({errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP})
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 20


class NewFile:
    """A file that is being written; small pieces are gathered into large ones."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._gathered, self._size = descriptor, list[bytes](), 0

    def write(self, data: bytes) -> None:
        """Add bytes; OSError when they cannot be written."""
        self._gathered.append(data)
        self._size += len(data)
        if self._size >= _CHUNK:
            self._flush()

    def writelines(self, lines: Iterable[bytes]) -> None:
        """Add many pieces."""
        for line in lines:
            self.write(line)

    def clone(self, source: BinaryIO) -> bool:
        """Take the blocks of a source of the same file system, where that can share them; whether it did."""
        return clone_file(self._descriptor, source.fileno())

    def make_lasting(self) -> None:
        """Write what is gathered, and wait until the disk holds it."""
        self._flush()
        os.fsync(self._descriptor)

    def _flush(self) -> None:
        write_all(self._descriptor, b"".join(self._gathered))
        self._gathered, self._size = [], 0


def modes(private: bool) -> tuple[int, int]:
    """Modes of new files and of new folders, before the umask."""
    return (0o600, 0o700) if private else (0o666, 0o777)


@contextmanager
def temporary(folder: int, target: str, mode: int = 0o666) -> Iterator[tuple[str, NewFile]]:
    """A new file beside `target` and its name; removed when the block raises."""
    name = f"{target}.{os.getpid()}{TEMPORARY_SUFFIX}"
    try:
        descriptor = os.open(name, _NEW, mode, dir_fd=folder)
    except FileExistsError:  # of a process of this number that was killed
        os.unlink(name, dir_fd=folder)
        descriptor = os.open(name, _NEW, mode, dir_fd=folder)
    try:
        yield name, NewFile(descriptor)
    except BaseException:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)
        raise
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: memoryview | bytes) -> None:
    """Write all of `data`; OSError when it cannot be written."""
    rest = memoryview(data)
    while rest:
        written = os.write(descriptor, rest)
        if written == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rest = rest[written:]


def hard_link(source: str, source_folder: int, name: str, folder: int) -> bool | None:
    """Whether the name was free and is now a hard link of the source; None where links cannot be made."""
    try:
        os.link(source, name, src_dir_fd=source_folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return None
    return True


def sync_folder(folder: int) -> None:
    """Make the names in a folder lasting; file systems that cannot do this are left alone."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
