"""Files that a page sends as one body, written below a folder as they come."""

from __future__ import annotations

import json
import re
from itertools import takewhile
from pathlib import Path, PurePosixPath

from ..errors import InvalidInputError

MOST_FILES = 4096  # of one scan
_MOST_LIST = 1 << 20  # bytes of the list of files
_MOST_DEPTH = 8  # folders of a path that are kept
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")


class Received:
    """The body: the length of a list in eight bytes, the list, the files one after another.

    The list is JSON, [[path, bytes], ...]; folders that all paths share are left out. Names are made plain: of letters
    and digits that any file system takes.

    Raises:
        InvalidInputError: (of `take` and `names`) it is no such body.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._waiting = folder, bytearray()
        self._left: list[tuple[str, int]] | None = None  # files that are still to come; None before the list
        self._names: list[str] = []
        self.title = ""  # what the files may be called together: the folder that they came in, or how their names begin

    def take(self, part: bytes) -> None:
        """The next bytes."""
        self._waiting += part
        if self._left is None and not self._read_list():
            return
        assert self._left is not None
        while self._left:
            name, size = self._left[0]
            piece = bytes(self._waiting[:size])
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as handle:
                handle.write(piece)
            del self._waiting[: len(piece)]
            self._left[0] = (name, size - len(piece))
            if self._left[0][1]:
                return
            self._left.pop(0)

    def names(self) -> list[str]:
        """The paths of the files below the folder, once all has come."""
        if self._left is None or self._left or self._waiting:
            raise InvalidInputError("the files came incomplete; drop them again")
        return self._names

    def _read_list(self) -> bool:
        if len(self._waiting) < 8:
            return False
        length = int.from_bytes(self._waiting[:8], "big")
        if length > _MOST_LIST:
            raise InvalidInputError("the list of files is too long")
        if len(self._waiting) < 8 + length:
            return False
        try:
            listed = json.loads(bytes(self._waiting[8 : 8 + length]))
            files = [(str(name), int(size)) for name, size in listed]
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidInputError("the list of files cannot be read") from error
        if not 0 < len(files) <= MOST_FILES or any(size < 0 for _, size in files):
            raise InvalidInputError(f"give 1 to {MOST_FILES} files")
        del self._waiting[: 8 + length]
        paths = [_plain(name, number) for number, (name, _) in enumerate(files)]
        shared = _shared(paths)
        paths = [PurePosixPath(*path.parts[len(shared) :]) for path in paths]
        folders = {folder for path in paths for folder in path.parents}
        if len({str(path).casefold() for path in paths}) < len(paths) or {*paths} & folders:
            raise InvalidInputError("two of the files have the same name")
        self._names = [str(path) for path in paths]
        self.title = shared[-1] if shared else _beginning([path.name for path in paths])
        self._left = [(name, size) for name, (_, size) in zip(self._names, files, strict=True)]
        return True


def _plain(path: str, number: int) -> PurePosixPath:
    """A path of plain names; what would lead elsewhere is left out."""
    parts = [_UNUSUAL.sub("_", part).lstrip(".")[-100:] for part in re.split(r"[/\\]", path)]
    *folders, name = parts
    return PurePosixPath(*[folder for folder in folders if folder][-_MOST_DEPTH:], name or f"file-{number}")


def _shared(paths: list[PurePosixPath]) -> tuple[str, ...]:
    """Folders that all paths begin with."""
    folders = [path.parts[:-1] for path in paths]
    same = takewhile(lambda parts: len({*parts}) == 1, zip(*folders, strict=False))
    return tuple(parts[0] for parts in same)


def _beginning(names: list[str]) -> str:
    same = "".join(letters[0] for letters in takewhile(lambda one: len({*one}) == 1, zip(*names, strict=False)))
    return same.removesuffix(".gz").removesuffix(".nii").rstrip("._-") or "scan"
