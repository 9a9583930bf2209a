"""Cases whose files were read before: those that the file system says are as they were are not read again.

A file counts as unchanged while its path, inode, size, and times of modification and of change are the same. The time
of change is set by the system at every write, rename and change of times; what changed within `RECENT_NS` before it was
read is not trusted, because clocks of file systems are coarse.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...engine.scans.case import modalities_to_read
from ...engine.scans.cases import CaseFiles
from ...engine.scans.options import ReadOptions
from ...engine.scans.read import reading, wanted_files

RECENT_NS = 2_000_000_000

Seen = list[object]  # how it is read, then path, inode, size and times of each file


class KnownCases:
    """Which prepared case (the stem of its files in the cache) came of which files, kept in a file beside them.

    Writers at the same time have different numbers and a file each; all of them are read.
    """

    def __init__(self, path: Path, modalities: Sequence[str], options: ReadOptions, writer: int = 0) -> None:
        self.path, self.modalities, self.options = path.with_name(f"{path.name}.w{writer}"), modalities, options
        self._kept: dict[str, tuple[str, Seen]] = {}
        for file in (*sorted(path.parent.glob(f"{path.name}.w*")), self.path):
            self._kept |= _read(file)
        self._seen: dict[str, tuple[Seen, bool]] = {}

    def stem(self, files: CaseFiles) -> str | None:
        """The stem of a case whose files are as they were; None where they have to be read."""
        seen, settled = self._look(files)
        self._seen[files.name] = seen, settled
        kept = self._kept.get(str(files.label))
        return kept[0] if kept is not None and kept[1] == seen else None

    def add(self, files: CaseFiles, stem: str) -> None:
        """Note what came of files that `stem` was asked for before they were read."""
        seen, settled = self._seen[files.name]
        if settled:
            self._kept[str(files.label)] = (stem, seen)

    def save(self) -> None:
        """Keep what is known for the next time, which reads the files again where it cannot be kept."""
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(self._kept), "utf-8")
            temporary.replace(self.path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()

    def _look(self, files: CaseFiles) -> tuple[Seen, bool]:
        """What the file system says, and whether it has said so for long enough to be trusted."""
        seen: Seen = [repr(reading(files, self.options))]
        newest = 0
        for image in wanted_files(files, modalities_to_read(files, self.modalities)):
            try:
                status = image.path.stat()
            except OSError:
                return seen, False
            seen.append([str(image.path), image.channel, status.st_ino, status.st_size,
                         status.st_mtime_ns, status.st_ctime_ns])  # fmt: skip
            newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
        return seen, time.time_ns() - newest > RECENT_NS


def _read(path: Path) -> dict[str, tuple[str, Seen]]:
    """What was kept; nothing where it is not there or damaged: the files are read then."""
    try:
        kept = json.loads(path.read_text("utf-8"))
        return {str(label): (str(stem), list(seen)) for label, (stem, seen) in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
