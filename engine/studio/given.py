"""Masks and scans that somebody drops on the page: read, brought to the model's grid, held in memory, never kept."""

from __future__ import annotations

import json
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..bundle.load import Bundle
from ..errors import InvalidInputError
from ..sampling.given_masks import GivenMasks, require_mask_first
from ..sampling.sdedit import SourceCase
from ..scans.masks import read_masks
from ..scans.options import ReadOptions
from ..scans.source_case import read_case

MOST = 8  # that are held at once
FORGOTTEN_S = 3600.0  # after the last word of their page
MOST_FILES = 4096  # of one scan
_MOST_LIST = 1 << 20  # bytes of the list of files
_IN_MEMORY = Path("/dev/shm")
_NAME = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Given:
    """What was dropped, on the model's grid."""

    id: str
    page: str
    name: str
    source: GivenMasks | SourceCase
    warnings: tuple[str, ...]

    @property
    def is_mask(self) -> bool:
        """Whether images are to be made around it; else it is a scan that is to be changed."""
        return isinstance(self.source, GivenMasks)

    def at(self, strength: float) -> GivenMasks | SourceCase:
        """What sampling starts from."""
        return self.source if isinstance(self.source, GivenMasks) else replace(self.source, strength=strength)


class GivenStore:
    """What pages have dropped; forgotten with its page, after `FORGOTTEN_S` without a word of it, or for newer ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Given] = {}
        self._heard: dict[str, float] = {}  # of each page that holds something

    def add(self, page: str, name: str, source: GivenMasks | SourceCase, warnings: tuple[str, ...]) -> Given:
        """Hold it for a page."""
        given = Given(secrets.token_hex(16), page, name, source, warnings)
        with self._lock:
            self._held[given.id] = given
            self._heard[page] = time.monotonic()
            while len(self._held) > MOST:
                del self._held[next(iter(self._held))]
        return given

    def get(self, page: str, given_id: str) -> Given:
        """What a page has dropped; InvalidInputError where it is held no more."""
        self.heard(page)
        with self._lock:
            given = self._held.get(given_id)
        if given is None or given.page != page:
            raise InvalidInputError("the dropped file is not held any more; drop it again")
        return given

    def heard(self, page: str) -> None:
        """A page is still open; those that have been silent for long are forgotten."""
        now = time.monotonic()
        with self._lock:
            if page in self._heard:
                self._heard[page] = now
            silent = [one for one, heard in self._heard.items() if now - heard > FORGOTTEN_S]
        for one in silent:
            self.drop(one)

    def drop(self, page: str) -> None:
        """Forget what a page has dropped."""
        with self._lock:
            self._heard.pop(page, None)
            self._held = {key: given for key, given in self._held.items() if given.page != page}


class Received:
    """Files that come as one body: the length of a list in eight bytes, the list, the files one after another.

    The list is JSON, [[name, bytes], ...]. They are written below a folder, each under the last part of its name.

    Raises:
        InvalidInputError: (of `take` and `names`) it is no such body.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._waiting = folder, bytearray()
        self._left: list[tuple[str, int]] | None = None  # files that are still to come; None before the list
        self._names: list[str] = []

    def take(self, part: bytes) -> None:
        """The next bytes."""
        self._waiting += part
        if self._left is None and not self._read_list():
            return
        assert self._left is not None
        while self._left:
            name, size = self._left[0]
            piece = bytes(self._waiting[:size])
            with (self._folder / name).open("ab") as handle:
                handle.write(piece)
            del self._waiting[: len(piece)]
            self._left[0] = (name, size - len(piece))
            if self._left[0][1]:
                return
            self._left.pop(0)

    def names(self) -> list[str]:
        """The names of the files, once all has come."""
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
        self._left = [(_plain(name, number), size) for number, (name, size) in enumerate(files)]
        self._names = [name for name, _ in self._left]
        if len({*self._names}) < len(self._names):
            raise InvalidInputError("two of the files have the same name")
        return True


@contextmanager
def passing_folder() -> Iterator[Path]:
    """A folder for the moment in which files are read: in memory where the system has such a place, gone afterwards."""
    place = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sbldm-studio-", dir=place) as folder:
        yield Path(folder)


def read_given(
    folder: Path, names: list[str], bundle: Bundle, options: ReadOptions
) -> tuple[str, GivenMasks | SourceCase, tuple[str, ...]]:
    """The mask, or the case, that these files of a folder are: its name, itself, what should be known of it.

    One NIfTI file is a mask, whatever its name; several files are a case: four modalities and a mask, or a DICOM study.

    Raises:
        InvalidInputError, UsageError: they are neither, or not for this model; the folder is not named.
    """
    try:
        if len(names) == 1 and names[0].endswith((".nii", ".nii.gz")):
            require_mask_first(bundle)
            name = names[0].removesuffix(".gz").removesuffix(".nii")
            case, ending = name.removesuffix("_seg"), names[0].removeprefix(name)
            (folder / names[0]).rename(folder / f"{case}_seg{ending}")
            columns = [column.name for column in bundle.manifest.condition_columns]
            masks, warnings = read_masks(folder, columns, bundle.manifest.grid, options)
            return name, masks, warnings
        case, warnings = read_case(folder, bundle, 0.5, options)
        return _common(names), case, warnings
    except InvalidInputError as error:
        raise InvalidInputError(_without(folder, str(error))) from error


def _plain(name: str, number: int) -> str:
    """The last part of a name, of characters that any file system takes."""
    last = re.split(r"[/\\]", name)[-1]
    return _NAME.sub("_", last).lstrip(".")[-100:] or f"file-{number}"


def _common(names: list[str]) -> str:
    first, last = min(names), max(names)
    same = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:same].rstrip("._-") or "scan"


def _without(folder: Path, text: str) -> str:
    return text.replace(f"{folder}/", "").replace(f"{folder}: ", "").replace(str(folder), "the dropped files")
