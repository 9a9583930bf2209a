"""Locks on files of a run: `flock` where the file system has it, elsewhere a folder beside the file.

A lock folder `NAME.lock` holds one file that says who made it: machine, process, its start. Making a folder is atomic
on every file system, NFS and Lustre included. Its holder touches that file every 10 s. A lock whose holder has ended is
taken over: at once where it ran on this machine, after 60 s without a touch where it ran on another.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import UsageError
from .portable import NoFileLocksError, flock, machine, process_started, same_start

LOCK_SUFFIX = ".lock"
_BREAK_SUFFIX = ".break"
_HOLDER = "holder"
BEAT_S = 10.0
SILENT_S = 60.0  # of a holder on another machine, before its lock is taken over
_BREAK_S = 2.0  # that looking after a dead holder may take
_told_once = threading.Event()


class LockHeldError(UsageError):
    """Another process, or another thread, holds the lock; the message says who."""


@dataclass(frozen=True)
class _Holder:
    machine: str
    pid: int
    started: float
    token: str

    @property
    def name(self) -> str:
        return f"process {self.pid} on {self.machine.partition('/')[0]}"


@dataclass(frozen=True)
class _Folder:
    """Where lock folders are made: a path, or names beneath an open folder."""

    path: Path
    descriptor: int | None

    def at(self, name: str) -> str:
        """The name for functions of `os` that are also given `descriptor` as their `dir_fd`."""
        return str(self.path / name) if self.descriptor is None else name


@dataclass
class FileLock:
    """A lock that is held until `release`, or until the process ends."""

    descriptor: int
    _folder: _Folder | None = None  # where a lock folder had to be made
    _name: str = ""
    _token: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Close the descriptor, and take away the lock folder unless another process took it over."""
        self._stop.set()
        os.close(self.descriptor)
        if self._folder is not None:
            with suppress(OSError):
                _remove(self._folder, self._name, self._token)

    def _beat(self) -> None:
        if self._folder is None:
            return
        path = self._folder.at(f"{self._name}/{_HOLDER}")
        while not self._stop.wait(BEAT_S):
            with suppress(OSError):
                os.utime(path, dir_fd=self._folder.descriptor)


def lock_file(descriptor: int, path: Path, *, shared: bool = False, folder: int | None = None) -> FileLock:
    """Lock an open file; the lock owns the descriptor from then on, and closes it where this raises.

    Args:
        descriptor: the open file.
        path: its path.
        shared: several readers may hold it; without `flock` one alone.
        folder: descriptor of the file's folder where names are to be resolved beneath it.

    Raises:
        LockHeldError: it is locked; by whom, as far as that is known.
        OSError: the lock folder cannot be made.
    """
    beside, name = _Folder(path.parent, folder), path.name + LOCK_SUFFIX
    try:
        try:
            flock(descriptor, shared=shared)
        except BlockingIOError:
            raise LockHeldError(f"{path}: another process holds the lock") from None
        except NoFileLocksError as error:
            return _lock_by_folder(descriptor, path, beside, name, shared, error)
        if _read(beside, name) is not None:  # made where this file system has no flock, or before it had
            _clear(path, beside, name, shared)
        return FileLock(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _lock_by_folder(
    descriptor: int, path: Path, beside: _Folder, name: str, shared: bool, why: NoFileLocksError
) -> FileLock:
    if not _told_once.is_set():
        _told_once.set()
        logging.getLogger("sbldm").warning(
            f"{path.parent}: this file system has no file locks ({why.strerror}); runs are told apart by lock folders, "
            f"*{LOCK_SUFFIX}"
        )
    me = _Holder(machine(), os.getpid(), process_started(os.getpid()) or 0.0, uuid.uuid4().hex)
    try:
        if not _make(beside, name, me):
            _take_over(path, beside, name, me)
    except OSError:
        if not shared or _read(beside, name) is not None:
            raise
        return FileLock(descriptor)  # a folder that cannot be written, and that nobody writes
    lock = FileLock(descriptor, beside, name, me.token)
    threading.Thread(target=lock._beat, name="lock-beat", daemon=True).start()
    return lock


def _make(beside: _Folder, name: str, me: _Holder) -> bool:
    """Whether the lock folder is ours now; False where it exists."""
    path = beside.at(name)
    try:
        os.mkdir(path, 0o755, dir_fd=beside.descriptor)
    except FileExistsError:
        return False
    inside = beside.at(f"{name}/{_HOLDER}")
    try:
        handle = os.open(inside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=beside.descriptor)
        try:
            os.write(handle, json.dumps(asdict(me)).encode())
        finally:
            os.close(handle)
    except OSError:
        with suppress(OSError):
            _remove(beside, name, None)
        raise
    return True


def _clear(path: Path, beside: _Folder, name: str, shared: bool) -> None:
    """Take a dead holder's lock folder away; LockHeldError while it lives."""
    try:
        with _breaking(path, beside, name) as now:
            _refuse_live(path, beside, name, now)
            _remove(beside, name, None)
    except OSError:
        if not shared:
            raise
        _refuse_live(path, beside, name, time.time())  # a folder that cannot be written: by this machine's clock


def _take_over(path: Path, beside: _Folder, name: str, me: _Holder) -> None:
    """Make the lock ours if its holder ended; LockHeldError while it lives."""
    with _breaking(path, beside, name) as now:
        _refuse_live(path, beside, name, now)
        _remove(beside, name, None)
        if not _make(beside, name, me):
            raise LockHeldError(f"{path}: another process has just taken the lock")


@contextmanager
def _breaking(path: Path, beside: _Folder, name: str) -> Iterator[float]:
    """One process at a time looks whether a lock may be taken over; yields the file system's time."""
    broken = beside.at(name + _BREAK_SUFFIX)
    give_up = time.monotonic() + _BREAK_S
    while True:
        try:
            os.mkdir(broken, 0o755, dir_fd=beside.descriptor)
            break
        except FileExistsError:
            if time.monotonic() > give_up:
                with suppress(OSError):  # left by a process that ended in these lines
                    os.rmdir(broken, dir_fd=beside.descriptor)
                raise LockHeldError(f"{path}: another process is taking the lock over; try again") from None
            time.sleep(0.05)
    try:
        yield os.stat(broken, dir_fd=beside.descriptor).st_mtime
    finally:
        os.rmdir(broken, dir_fd=beside.descriptor)


def _refuse_live(path: Path, beside: _Folder, name: str, now: float) -> None:
    """LockHeldError while the holder of a lock folder lives; `now` by the file system's clock."""
    found = _read(beside, name)
    if found is None:
        return
    holder, touched = found
    if holder is not None and holder.machine == machine():
        started = process_started(holder.pid)
        if started is not None and same_start(started, holder.started):
            raise LockHeldError(f"{path}: {holder.name} holds the lock")
        return
    silent = now - touched
    if silent < SILENT_S:
        who = "another process" if holder is None else holder.name
        raise LockHeldError(
            f"{path}: {who} holds the lock, last sign of life {max(silent, 0):.0f} s ago; "
            f"if it has ended, try again in {SILENT_S - silent:.0f} s"
        )


def _read(beside: _Folder, name: str) -> tuple[_Holder | None, float] | None:
    """Who holds a lock folder, and when it was last touched; None without one, no holder where it cannot be read."""
    path = beside.at(name)
    try:
        made = os.stat(path, dir_fd=beside.descriptor).st_mtime
    except FileNotFoundError:
        return None
    inside = beside.at(f"{name}/{_HOLDER}")
    try:
        handle = os.open(inside, os.O_RDONLY, dir_fd=beside.descriptor)
    except OSError:
        return None, made
    touched = os.fstat(handle).st_mtime
    try:
        data = json.loads(os.read(handle, 4096))
        return _Holder(str(data["machine"]), int(data["pid"]), float(data["started"]), str(data["token"])), touched
    except (ValueError, KeyError, TypeError):
        return None, touched
    finally:
        os.close(handle)


def _remove(beside: _Folder, name: str, token: str | None) -> None:
    """Take a lock folder away; one that does not carry `token`, where that is given, stays."""
    found = _read(beside, name)
    if found is None or (token is not None and (found[0] is None or found[0].token != token)):
        return
    inside = beside.at(f"{name}/{_HOLDER}")
    with suppress(FileNotFoundError):
        os.unlink(inside, dir_fd=beside.descriptor)
    path = beside.at(name)
    os.rmdir(path, dir_fd=beside.descriptor)
