"""File operations of a piece of work recorded, and the states of the disk that a power cut at any moment may leave.

The model is pessimistic: what was written to a file lasts only once that file was synced, a name only once its folder
was. Unsynced bytes are kept, lost, or read as zeros; unsynced names are kept or lost, all together or any one.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sbldm.engine import files, folder, locked_files, new_files

State = dict[str, bytes | None]  # content by path below the root; None: a folder


@dataclass(frozen=True)
class Operation:
    """One change, sync or acknowledgement."""

    kind: str  # mkdir create write truncate sync sync-folder rename link unlink said
    path: str = ""  # below the root; of `said`: what was said
    inode: int = -1
    data: bytes = b""
    number: int = 0  # offset of `write`, size of `truncate`
    target: str = ""  # of `rename`
    site: tuple[str, ...] = ()  # of a sync: who asked for it


@dataclass
class RecordingOs:
    """Stands in for `os` where files are made; `fault(operation number, kind)` may raise or shorten a write."""

    root: Path
    fault: Callable[[int, str], int | None] = lambda _number, _kind: None
    log: list[Operation] = field(default_factory=list)
    contents: dict[int, bytes] = field(default_factory=dict)  # of files that were there before
    kinds: list[str] = field(default_factory=list)  # of the operations that may fail, in their order

    def __post_init__(self) -> None:
        self._paths: dict[int, str] = {}  # by descriptor
        self._inodes: dict[int, int] = {}  # by descriptor
        self._numbers: dict[int, int] = {}  # inode number of the system -> ours
        self._next, self._lock = 0, threading.RLock()
        self.root = self.root.resolve()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def said(self, what: str) -> None:
        """Record that a caller was told something."""
        self.log.append(Operation("said", what))

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        with self._lock:
            name = self._name(path, dir_fd)
            known = self._exists(path, dir_fd)
            if flags & os.O_CREAT and not known:
                self._step("create")
            elif known and not flags & os.O_DIRECTORY:
                self._step("open")
            descriptor = os.open(path, flags, mode, dir_fd=dir_fd)
            self._paths[descriptor] = name
            if not flags & os.O_DIRECTORY:
                real = os.fstat(descriptor).st_ino
                if flags & os.O_CREAT and not known:
                    self._numbers[real] = self._new()
                    self.log.append(Operation("create", name, self._numbers[real]))
                self._inodes[descriptor] = self._number(real, descriptor)
            return descriptor

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def write(self, descriptor: int, data: Any) -> int:
        with self._lock:
            short = self._step("write")
            part = bytes(data)[:short]
            offset = os.lseek(descriptor, 0, os.SEEK_END)
            written = os.write(descriptor, part)
            self.log.append(Operation("write", self._paths[descriptor], self._inodes[descriptor], part, offset))
            return written

    def ftruncate(self, descriptor: int, size: int) -> None:
        with self._lock:
            self._step("truncate")
            os.ftruncate(descriptor, size)
            self.log.append(Operation("truncate", inode=self._inodes[descriptor], number=size))

    def fsync(self, descriptor: int) -> None:
        with self._lock:
            self._step("sync")
            path = self._paths[descriptor]
            if descriptor in self._inodes and not os.path.isdir(f"/proc/self/fd/{descriptor}"):
                self.log.append(Operation("sync", path, self._inodes[descriptor], site=_site()))
            else:
                self.log.append(Operation("sync-folder", path, site=_site()))

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        with self._lock:
            if not self._exists(path, dir_fd):
                self._step("mkdir")
            os.mkdir(path, mode, dir_fd=dir_fd)
            self.log.append(Operation("mkdir", self._name(path, dir_fd)))

    def rename(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        with self._lock:
            self._step("rename")
            os.rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
            names = self._name(source, src_dir_fd), self._name(target, dst_dir_fd)
            self.log.append(Operation("rename", names[0], target=names[1]))

    def link(self, source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        with self._lock:
            self._step("link")
            os.link(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)
            descriptor = os.open(target, os.O_RDONLY, dir_fd=dst_dir_fd)
            inode = self._number(os.fstat(descriptor).st_ino, descriptor)
            os.close(descriptor)
            self.log.append(Operation("link", self._name(target, dst_dir_fd), inode))

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        with self._lock:
            if self._exists(path, dir_fd):
                self._step("unlink")
            os.unlink(path, dir_fd=dir_fd)
            self.log.append(Operation("unlink", self._name(path, dir_fd)))

    def _exists(self, path: Any, dir_fd: int | None) -> bool:
        try:
            os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def _step(self, kind: str) -> int | None:
        self.kinds.append(kind)
        return self.fault(len(self.kinds) - 1, kind)

    def _new(self) -> int:
        self._next += 1
        return self._next

    def _number(self, real: int, descriptor: int) -> int:
        if real not in self._numbers:
            self._numbers[real] = self._new()
            self.contents[self._numbers[real]] = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        return self._numbers[real]

    def _name(self, path: Any, dir_fd: int | None) -> str:
        if dir_fd is not None:
            folder = self._paths[dir_fd]
            return f"{folder}/{path}" if folder else str(path)
        full = Path(path).resolve()
        return full.relative_to(self.root).as_posix().removeprefix(".") if full.is_relative_to(self.root) else str(full)


def recorded(monkeypatch: pytest.MonkeyPatch, stand_in: RecordingOs, work: Callable[[], Any]) -> Any:
    """What `work` returns with its file operations recorded."""
    with monkeypatch.context() as patch:
        for module in (files, folder, locked_files, new_files):
            patch.setattr(module, "os", stand_in)
        patch.setattr(new_files, "clone_file", lambda *_: False)  # blocks that are shared, nobody would see written
        return work()


def failing_at(number: int, code: int) -> Callable[[int, str], int | None]:
    """A fault: operation `number` fails with this error; with 0, a write writes half and the next finds no room.

    A file that is there can always be opened unless the disk has an error: EIO alone.
    """
    halved: list[int] = []

    def fault(now: int, kind: str) -> int | None:
        if halved and now == halved[0] + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if now != number or (kind == "open" and code != errno.EIO):
            return None
        if code == 0:
            if kind == "write":
                halved.append(now)
                return 7
            return None
        raise OSError(code, os.strerror(code))

    return fault


def snapshot(root: Path) -> State:
    """A folder on the disk as a state; without the audit trail, which has a clock in it."""
    found: State = {}
    for path in sorted(path for path in root.rglob("*") if path.name != "audit.jsonl"):
        found[path.relative_to(root).as_posix()] = None if path.is_dir() else path.read_bytes()
    return found


def lay_out(state: State, root: Path) -> None:
    """Make a state real in an empty folder."""
    root.mkdir(parents=True, exist_ok=True)
    for name, data in sorted(state.items()):
        if data is None:
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)


def crash_states(
    log: list[Operation], before: State, contents: dict[int, bytes], without: tuple[str, ...] | None = None
) -> Iterator[tuple[State, list[str]]]:
    """Every distinct state that a power cut may leave, with what had been said by then.

    `before`: what was there, lasting. `without`: a call site whose syncs are left out.
    """
    seen: set[int] = set()
    for length in range(len(log) + 1):
        disk = _Disk(before, contents)
        said: list[str] = []
        for operation in log[:length]:
            if operation.kind == "said":
                said.append(operation.path)
            elif without is None or operation.site != without:
                disk.apply(operation)
        for state in disk.states(log[length] if length < len(log) else None):
            key = hash((frozenset(state.items()), tuple(said)))
            if key not in seen:
                seen.add(key)
                yield state, list(said)


def sync_sites(log: list[Operation]) -> list[tuple[str, ...]]:
    """The places in the program that ask for syncs, each once."""
    return list(dict.fromkeys(operation.site for operation in log if operation.site))


class _Disk:
    """Names and contents as they are, and as they last."""

    def __init__(self, before: State, contents: dict[int, bytes]) -> None:
        self.names: dict[str, int | None] = {}  # inode, None for a folder
        self.now: dict[int, bytes] = dict(contents)
        self.lasting: dict[int, bytes] = dict(contents)
        self.pending: list[Operation] = []  # changes of names not yet synced
        for number, (path, data) in enumerate(before.items()):
            self.names[path] = None if data is None else -1 - number
            if data is not None:
                self.now[-1 - number] = self.lasting[-1 - number] = data
        self.kept = dict(self.names)

    def apply(self, operation: Operation) -> None:
        kind = operation.kind
        if kind == "write":
            data = self.now[operation.inode]
            self.now[operation.inode] = data[: operation.number] + operation.data
        elif kind == "truncate":
            self.now[operation.inode] = self.now[operation.inode][: operation.number]
        elif kind == "sync":
            self.lasting[operation.inode] = self.now[operation.inode]
        elif kind == "sync-folder":
            rest = [o for o in self.pending if _folder(o.path) != operation.path]
            for change in (o for o in self.pending if _folder(o.path) == operation.path):
                _rename(self.kept, change)
            self.pending = rest
        else:
            if kind == "create":
                self.now[operation.inode] = self.lasting[operation.inode] = b""
            _rename(self.names, operation)
            self.pending.append(operation)

    def states(self, coming: Operation | None) -> Iterator[State]:
        """What may be found after a cut now, or in the middle of the write that comes."""
        zeroed = {n: self.lasting[n] + bytes(max(0, len(d) - len(self.lasting[n]))) for n, d in self.now.items()}
        for contents in (self.now, self.lasting, zeroed):
            yield self._state(self.names, contents)
            yield self._state(self.kept, contents)
            for one in self.pending:
                for alone in (True, False):  # kept alone, or lost alone
                    names = dict(self.kept)
                    for change in self.pending:
                        if (change is one) == alone:
                            _rename(names, change)
                    yield self._state(names, contents)
        if coming is not None and coming.kind == "write":
            torn = dict(self.now)
            torn[coming.inode] = torn[coming.inode][: coming.number] + coming.data[: len(coming.data) // 2]
            yield self._state(self.names, torn)

    def _state(self, names: dict[str, int | None], contents: dict[int, bytes]) -> State:
        found: State = {}
        for path, inode in names.items():
            if all(above in names for above in _above(path)):
                found[path] = None if inode is None else contents[inode]
        return found


def _rename(names: dict[str, int | None], change: Operation) -> None:
    if change.kind == "mkdir":
        names[change.path] = None
    elif change.kind in ("create", "link"):
        names[change.path] = change.inode
    elif change.kind == "unlink":
        names.pop(change.path, None)
    elif change.path in names:
        names[change.target] = names.pop(change.path)


def _folder(path: str) -> str:
    return path.rpartition("/")[0]


def _above(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _site() -> tuple[str, ...]:
    """The functions that asked for a sync, innermost first."""
    found: list[str] = []
    frame = sys._getframe(2)
    while frame is not None and len(found) < 6:
        name = frame.f_code.co_filename
        if "/engine/" in name:
            found.append(f"{name.rpartition('/')[2]}:{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return tuple(found)
