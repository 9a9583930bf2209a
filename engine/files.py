"""Files that appear whole or not at all: a temporary name beside the target, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

TEMPORARY_SUFFIX = ".tmp"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of the system errors that mean there is no room left."""


@contextmanager
def atomic_file(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends, and leaves nothing behind when it raises.

    The temporary name carries the process number, so that two writers of one target never share it. Without `sync` the
    caller makes the new name lasting by `sync_folder`, once for many files.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        sync_folder(path.parent)


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write `data` to `path` by `atomic_file`; OSError when it cannot be written."""
    with atomic_file(path, sync=sync) as handle:
        handle.write(data)


def create_exclusively(path: Path, data: bytes) -> bool:
    """Write `data` to `path` unless that exists already; whether this call made it.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            if path.exists():
                return False
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)
    return True


def make_folders(path: Path, root: Path) -> None:
    """Create `path` and its missing parents below `root`, and make each lasting."""
    if path.is_dir():
        return
    if path != root:
        make_folders(path.parent, root)
    with suppress(FileExistsError):
        path.mkdir()
        sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder lasting; file systems that cannot do this are left alone."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def clear_temporaries(root: Path, mine: Callable[[str], bool]) -> list[Path]:
    """Remove the temporary files below `root` whose name `mine` accepts; returns what was removed."""
    removed: list[Path] = []
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(TEMPORARY_SUFFIX) and mine(name):
                path = Path(folder) / name
                path.unlink(missing_ok=True)
                removed.append(path)
    return removed


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
