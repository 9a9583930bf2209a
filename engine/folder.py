"""A directory in which files are made, replaced, linked or removed.

All of it happens beneath a directory that was opened once, never through a symbolic link, and under names that this
directory's owner accepts. A file appears whole or not at all: a temporary name beside the target, fsync, rename, fsync
of the folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from .errors import InvalidInputError
from .locked_files import LockedFile
from .locks import lock_file
from .new_files import TEMPORARY_SUFFIX, NewFile, hard_link, modes, sync_folder, temporary
from .portable import PATH_ONLY
from .trees import remove_tree

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a FIFO is opened at once, and refused
_STAYS = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR})
_TEMPORARY = re.compile(r"(.+?)(?:\.\d+)?\.tmp")
_CHUNK = 1 << 20
_KNOWN_FOLDERS = 256  # of which a `Folder` remembers that they are lasting; those of a run are written once


class Folder:
    """A directory opened once. Names are relative to it, in POSIX form; `owns` says which may be made or removed.

    What is made in a `private` one is for its owner alone (0600, folders 0700), whatever the umask.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, root: Path, owns: Callable[[str], bool] = lambda _: True, *, private: bool = False) -> None:
        self.root, self._owns = root, owns
        self._file_mode, self._folder_mode = modes(private)
        try:
            self._descriptor = os.open(root, DIRECTORY)
        except PermissionError:  # a folder that may be entered, not listed
            self._descriptor = os.open(root, DIRECTORY | PATH_ONLY)
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self._lasting: set[tuple[str, ...]] = set()  # folders below whose names the disk is known to hold

    def close(self) -> None:
        """Give the directory back; the last use closes it too."""
        self._close()

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def names(self) -> list[str]:
        """Names directly in the directory, sorted."""
        return sorted(os.listdir(self._descriptor))

    def walk(self) -> Iterator[str]:
        """Names of all that lies below and is no folder, sorted folder by folder; links are not followed."""
        yield from self._walk("", self._descriptor)

    def has(self, name: str) -> bool:
        """Whether something of this name is there, a link included."""
        try:
            self._status(name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def status(self, name: str) -> os.stat_result | None:
        """Status of a regular file; None where there is none of that name."""
        try:
            found = self._status(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found if stat.S_ISREG(found.st_mode) else None

    @contextmanager
    def reading(self, name: str) -> Iterator[BinaryIO]:
        """A regular file open for reading.

        Raises:
            OSError: it is not there, is no regular file or a link.
        """
        with self._parent(name) as (folder, last):
            descriptor = os.open(last, READ, dir_fd=folder)
        with regular(descriptor, self.root / name) as handle:
            yield handle

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a regular file of at most `most` bytes; see `reading`.

        Raises:
            InvalidInputError: it is larger.
        """
        with self.reading(name) as handle:
            return bounded(handle, most, self.root / name)

    def sha256(self, name: str) -> str:
        """Hex sha256 of a regular file; see `reading`."""
        with self.reading(name) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()  # type: ignore[arg-type]

    @contextmanager
    def writing(self, name: str, *, sync: bool = True) -> Iterator[NewFile]:
        """A file that takes the name when the block ends, and leaves nothing behind when it raises.

        Missing folders are made. The temporary name carries the process number, so that two writers of one target
        never share it. Without `sync` the caller makes the new name lasting by `sync`, once for many files.

        Raises:
            OSError: the file cannot be written.
        """
        self._require_owned(name)
        with self._parent(name, make=True) as (folder, last):
            with temporary(folder, last, self._file_mode) as (beside, handle):
                yield handle
                handle.make_lasting()
                os.rename(beside, last, src_dir_fd=folder, dst_dir_fd=folder)
            if sync:
                sync_folder(folder)

    def write(self, name: str, data: bytes, *, sync: bool = True) -> None:
        """Write `data` by `writing`."""
        with self.writing(name, sync=sync) as handle:
            handle.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """Write `data` unless the name is taken; whether this call made the file.

        Raises:
            OSError: the file cannot be written.
        """
        self._require_owned(name)
        with self._parent(name, make=True) as (folder, last):
            with temporary(folder, last, self._file_mode) as (beside, handle):
                handle.write(data)
                handle.make_lasting()
                made = hard_link(beside, folder, last, folder)
                if made is None and not self.has(name):
                    os.rename(beside, last, src_dir_fd=folder, dst_dir_fd=folder)
                    made = True
                else:
                    os.unlink(beside, dir_fd=folder)
            sync_folder(folder)
        return bool(made)

    def bring(self, source: Folder, source_name: str, name: str, *, link: bool) -> bool:
        """Put a file of another directory here under `name`: whether by a hard link, else as a copy of its own.

        A copy shares its blocks with the source where the file system can; what had the name is replaced.

        Raises:
            OSError: it cannot be read or written.
        """
        self._require_owned(name)
        with self._parent(name, make=True) as (folder, last):
            linked = link and _link_over(source, source_name, folder, last)
            if not linked:
                made = temporary(folder, last, self._file_mode)
                with source.reading(source_name) as data, made as (beside, handle):
                    _copy(data, handle)
                    handle.make_lasting()
                    os.rename(beside, last, src_dir_fd=folder, dst_dir_fd=folder)
            sync_folder(folder)
        return linked

    def remove(self, name: str, *, sync: bool = False) -> bool:
        """Remove a file; whether there was one."""
        self._require_owned(name)
        try:
            with self._parent(name) as (folder, last):
                os.unlink(last, dir_fd=folder)
                if sync:
                    sync_folder(folder)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def rename_folder(self, name: str, free: str) -> None:
        """Give a folder directly in this directory another name, and make that lasting.

        Raises:
            OSError: the name is taken, or it cannot be given.
        """
        self._require_owned(name)
        self._require_owned(free)
        if self.has(free):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.root / free))
        os.rename(name, free, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        sync_folder(self._descriptor)

    def remove_folder(self, name: str) -> bool:
        """Remove a folder if it is empty; whether it was."""
        try:
            with self._parent(name) as (above, last):
                os.rmdir(last, dir_fd=above)
        except OSError as error:
            if error.errno not in _STAYS:
                raise
            return False
        return True

    def clear(self, name: str) -> None:
        """Remove a folder with all that lies below it, links as links.

        Raises:
            OSError: something cannot be removed.
        """
        self._require_owned(name)
        with suppress(FileNotFoundError), self._parent(name) as (above, last):
            remove_tree(last, above)

    def sync(self, name: str) -> None:
        """Make the name of a file, and all that lie beside it, lasting."""
        with self._parent(name) as (folder, _):
            sync_folder(folder)

    def clear_temporaries(self, mine: Callable[[str], bool]) -> list[str]:
        """Remove the temporary files whose target the owner accepts and `mine` too; returns what was removed."""
        removed: list[str] = []
        for name in self.walk():
            target = temporary_of(name)
            if target is not None and self._owns(target) and mine(target):
                with suppress(FileNotFoundError), self._parent(name) as (folder, last):
                    os.unlink(last, dir_fd=folder)
                removed.append(name)
        return removed

    def appending(self, name: str) -> LockedFile:
        """The file open for appending, made if absent, and locked.

        Raises:
            LockHeldError: another process holds it.
            OSError: it cannot be opened or locked, or is no regular file.
        """
        self._require_owned(name)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with self._parent(name) as (folder, last):
            descriptor = os.open(last, flags, self._file_mode, dir_fd=folder)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise OSError(errno.EINVAL, "not a regular file", str(self.root / name))
            return LockedFile(self, name, lock_file(descriptor, self.root / name, folder=self._descriptor))

    @contextmanager
    def held_for_reading(self, name: str) -> Iterator[None]:
        """Hold a file directly in this directory against writers that lock it; LockHeldError while one does."""
        lock = lock_file(
            os.open(name, READ, dir_fd=self._descriptor), self.root / name, shared=True, folder=self._descriptor
        )
        try:
            yield
        finally:
            lock.release()

    def _walk(self, prefix: str, descriptor: int) -> Iterator[str]:
        with os.scandir(descriptor) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        for name, is_folder in found:
            if not is_folder:
                yield prefix + name
                continue
            try:
                inner = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            except FileNotFoundError:
                continue
            try:
                yield from self._walk(f"{prefix}{name}/", inner)
            finally:
                os.close(inner)

    def _status(self, name: str) -> os.stat_result:
        with self._parent(name) as (folder, last):
            return os.stat(last, dir_fd=folder, follow_symlinks=False)

    def _require_owned(self, name: str) -> None:
        if not self._owns(name):
            raise InvalidInputError(f"{self.root / name}: is no file of this run; it is left alone")

    @contextmanager
    def _parent(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Descriptor of the folder that holds `name`, and the last part of the name."""
        *folders, last = safe_parts(name)
        held = self._descriptor
        try:
            for depth, part in enumerate(folders, start=1):
                inner = _enter(held, part, self._folder_mode if make else None)
                if make and (above := tuple(folders[:depth])) not in self._lasting:
                    sync_folder(held)
                    if len(self._lasting) >= _KNOWN_FOLDERS:
                        self._lasting = set()  # not emptied: other threads may be looking into it
                    self._lasting.add(above)
                if held != self._descriptor:
                    os.close(held)
                held = inner
            yield held, last
        finally:
            if held != self._descriptor:
                os.close(held)


def safe_parts(name: str) -> list[str]:
    """The parts of a relative POSIX name that stays where it is.

    Raises:
        InvalidInputError: it is empty or absolute, or a part of it is empty, `.`, `..` or holds a backslash.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise InvalidInputError(f"file name {name!r}: must be relative, without empty parts, '.', '..' or backslashes")
    return parts


def temporary_of(name: str) -> str | None:
    """The name whose temporary file `name` is; None where it is none of ours."""
    found = _TEMPORARY.fullmatch(name)
    return None if found is None else found.group(1)


def regular(descriptor: int, path: Path) -> BinaryIO:
    """A handle that owns the descriptor; OSError, and the descriptor closed, where it is no regular file."""
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def bounded(handle: BinaryIO, most: int, path: Path) -> bytes:
    """What a file holds, at most `most` bytes; InvalidInputError where that is more."""
    data = handle.read(most + 1)
    if len(data) > most:
        raise InvalidInputError(f"{path}: larger than {most} bytes; this is not what is expected here")
    return data


def _enter(folder: int, part: str, mode: int | None) -> int:
    """Descriptor of a folder, which is made with `mode` where that is given."""
    try:
        return os.open(part, DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        if mode is None:
            raise
    with suppress(FileExistsError):
        os.mkdir(part, mode, dir_fd=folder)
    return os.open(part, DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)


def _link_over(source: Folder, source_name: str, folder: int, last: str) -> bool:
    """Whether `last` is now a hard link of the source; what had the name is replaced."""
    beside = f"{last}.{os.getpid()}{TEMPORARY_SUFFIX}"
    with suppress(FileNotFoundError):
        os.unlink(beside, dir_fd=folder)
    with source._parent(source_name) as (from_folder, from_name):
        made = hard_link(from_name, from_folder, beside, folder)
    if not made:
        return False
    os.rename(beside, last, src_dir_fd=folder, dst_dir_fd=folder)
    with suppress(FileNotFoundError):  # renaming one link of a file over another leaves both
        os.unlink(beside, dir_fd=folder)
    return True


def _copy(source: BinaryIO, target: NewFile) -> None:
    if not target.clone(source):
        while chunk := source.read(_CHUNK):
            target.write(chunk)
