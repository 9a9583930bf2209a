"""Single files that somebody named: read, hashed, written whole or not at all; and the making of directories."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .folder import DIRECTORY, READ, Folder, bounded, regular
from .new_files import NewFile, sync_folder

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of the system errors that mean there is no room left."""


def make_directory(path: Path, mode: int = 0o777) -> None:
    """Make a directory, its missing parents too, and the names of all that were made lasting.

    Raises:
        OSError: one cannot be made.
    """
    if not path.parent.is_dir():
        make_directory(path.parent)
    with suppress(FileExistsError):
        os.mkdir(path, mode)
    _sync_path(path.parent)


@contextmanager
def atomic_file(path: Path, *, sync: bool = True, private: bool = False) -> Iterator[NewFile]:
    """A single file that a user named, by `Folder.writing`; OSError where it cannot be written or is no file."""
    with suppress(FileNotFoundError):
        found = os.lstat(path).st_mode
        if stat.S_ISDIR(found):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not (stat.S_ISREG(found) or stat.S_ISLNK(found)):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
    with Folder(path.parent, private=private) as folder, folder.writing(path.name, sync=sync) as handle:
        yield handle


def write_atomic(path: Path, data: bytes, *, sync: bool = True, private: bool = False) -> None:
    """Write `data` to `path` by `atomic_file`; OSError when it cannot be written."""
    with atomic_file(path, sync=sync, private=private) as handle:
        handle.write(data)


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes; links are followed, devices and pipes are not read.

    Raises:
        InvalidInputError: it is larger.
        OSError: it cannot be read, or is no regular file.
    """
    with open_regular(path) as handle:
        return bounded(handle, most, path)


def open_regular(path: Path) -> BinaryIO:
    """A regular file open for reading; links are followed, OSError for devices and pipes."""
    return regular(os.open(path, READ & ~os.O_NOFOLLOW), path)


def sha256_file(path: Path) -> str:
    """Hex sha256 of a regular file's bytes; OSError where it is none, or cannot be read."""
    with open_regular(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()  # type: ignore[arg-type]


def _sync_path(path: Path) -> None:
    try:
        descriptor = os.open(path, DIRECTORY)
    except PermissionError:  # a folder that may be entered, not read
        return
    try:
        sync_folder(descriptor)
    finally:
        os.close(descriptor)
