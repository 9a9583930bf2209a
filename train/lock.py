"""A training directory held by one process, and its system errors as errors of ours."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..engine.errors import IncompleteRunError, UsageError
from ..engine.files import FULL
from ..engine.locks import LOCK_SUFFIX, LockHeldError, lock_file
from .checkpoint import STAGES, SYSTEM_NAME

LOCK_NAME, HOLDER_NAME = "train.lock", "train.holder"
RANKS = ("LOCAL_RANK", "RANK", "SLURM_PROCID")  # of a process beside others, set by whoever started it
REFUSED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EEXIST}
)
_BEFORE_THE_SYSTEM = frozenset({"cache", LOCK_NAME, HOLDER_NAME, LOCK_NAME + LOCK_SUFFIX, *STAGES})


def require_own(directory: Path) -> None:
    """UsageError where a directory holds files and is no training directory: nothing in it is touched."""
    try:
        names = {path.name for path in directory.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"--out {directory}: cannot be used as a directory ({error.strerror})") from error
    foreign = sorted(name for name in names - _BEFORE_THE_SYSTEM if not name.startswith("."))
    if foreign and SYSTEM_NAME not in names:
        raise UsageError(
            f"--out {directory}: holds {foreign[0]!r} and no {SYSTEM_NAME}, so it is no training directory; nothing in "
            "it was touched; give a new or empty directory"
        )


@contextmanager
def writing_to(directory: Path) -> Iterator[None]:
    """A training directory held by this process alone (rank 0 of several), its system errors as errors of ours.

    Raises:
        UsageError: another process trains in it, or it cannot be written.
        IncompleteRunError: no room is left on the disk.
    """
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with training_lock(directory):
            yield


@contextmanager
def disk_errors(directory: Path) -> Iterator[None]:
    """System errors of writing for a training directory as errors of ours; see `writing_to`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise IncompleteRunError(
                f"{directory}: no room left on the disk; make room and give the same command: "
                "it goes on from the last checkpoint"
            ) from error
        if error.errno in REFUSED:
            raise UsageError(f"{error.filename or directory}: cannot be written ({error.strerror})") from error
        raise


def is_beside_others() -> bool:
    """Whether whoever started this process says that it is not the first of several."""
    return any(os.environ.get(name, "0") != "0" for name in RANKS)


@contextmanager
def training_lock(directory: Path) -> Iterator[None]:
    """One training a directory; the lock ends with its process, however that ends.

    Ranks beside the first one train under its lock.

    Raises:
        UsageError: naming the process that holds it.
    """
    if is_beside_others():
        yield
        return
    holder = directory / HOLDER_NAME
    path = directory / LOCK_NAME
    try:
        lock = lock_file(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), path)
    except LockHeldError as error:
        who = holder.read_text(encoding="utf-8").strip() if holder.is_file() else "another process"
        raise UsageError(
            f"--out {directory}: {who} trains in it already; wait for it, or give another --out"
        ) from error
    try:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
