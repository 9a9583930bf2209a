"""A file that one process appends to: locked, each addition made lasting before it is told."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from .locks import FileLock
from .new_files import write_all

if TYPE_CHECKING:
    from .folder import Folder

_CHUNK = 1 << 20


class LockedFile:
    """A file directly in a `Folder`, open for appending and locked."""

    def __init__(self, folder: Folder, name: str, lock: FileLock) -> None:
        self.folder, self.name, self._lock = folder, name, lock
        self.descriptor = lock.descriptor

    def close(self) -> None:
        """Close the file and end the lock."""
        self._lock.release()

    def is_the_named_file(self) -> bool:
        """Whether the name still leads to the file that is open here."""
        found = self.folder.status(self.name)
        return found is not None and os.path.samestat(found, os.fstat(self.descriptor))

    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self.descriptor).st_size

    def sync_name(self) -> None:
        """Make the name of the file lasting."""
        self.folder.sync(self.name)

    def append(self, data: bytes) -> None:
        """Append and make lasting; what does not fit is taken back before OSError is raised."""
        end = os.lseek(self.descriptor, 0, os.SEEK_END)
        try:
            write_all(self.descriptor, data)
            os.fsync(self.descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self.descriptor, end)
            raise

    def clear(self) -> None:
        """Empty the file."""
        os.ftruncate(self.descriptor, 0)

    def cut_torn_line(self) -> None:
        """Cut what follows the last line end."""
        size = keep = os.lseek(self.descriptor, 0, os.SEEK_END)
        while keep > 0:
            start = max(keep - _CHUNK, 0)
            found = os.pread(self.descriptor, keep - start, start).rfind(b"\n")
            keep = start + found + 1
            if found >= 0:
                break
        if keep < size:
            os.ftruncate(self.descriptor, keep)
