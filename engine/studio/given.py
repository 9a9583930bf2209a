"""Masks and scans that somebody drops on the page: read, brought to the model's grid, held in memory, never kept."""

from __future__ import annotations

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
from ..run.request import Source
from ..sampling.given_masks import GivenMasks, require_mask_first
from ..sampling.sdedit import SourceCase
from ..scans.insert_scan import InsertWishes, plan_insert
from ..scans.masks import read_masks
from ..scans.one_case import one_case
from ..scans.options import ReadOptions
from ..scans.scan import OpenedScan, open_scan
from ..scans.source_case import read_case
from .received import Received
from .wish import Start, Wish

MOST = 8  # that are held at once
MOST_BYTES = 200 * 10**6  # of them together; the newest is held, whatever it takes
FORGOTTEN_S = 3600.0  # seconds after the last word of their page
_IN_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Own:
    """What was dropped, as it was read: a mask, a scan on its own voxels, a case on the model's grid."""

    name: str
    warnings: tuple[str, ...]
    mask: GivenMasks | None = None
    scan: OpenedScan | None = None
    case: SourceCase | None = None

    @property
    def starts(self) -> tuple[Start, ...]:
        """What may be made from it; the first is what is usually wanted."""
        if self.mask is not None:
            return ("mask",)
        has_lesion = self.scan is not None and bool(self.scan.own.grid.label().any())
        inserts: tuple[Start, ...] = () if self.scan is None else ("insert", "replace", "remove")
        return (*(inserts if has_lesion else inserts[:1]), *(("change",) if self.case is not None else ()))

    @property
    def bytes(self) -> int:
        """What it takes, about."""
        arrays = [] if self.case is None else [self.case.image, self.case.label]
        files = [] if self.scan is None else [*self.scan.files, self.scan.mask_file]
        if self.scan is not None:
            arrays += [self.scan.image, self.scan.brain]
        packed = () if self.mask is None else self.mask.packed
        once = {id(part): part for part in (*(file.plain for file in files), *packed)}
        return sum(map(len, once.values())) + sum({id(array): array.nbytes for array in arrays}.values())

    def source(self, wish: Wish, bundle: Bundle) -> Source:
        """What the sampling of a wish starts from.

        Raises:
            InvalidInputError: it does not fit what was dropped: a place outside the scan's brain, another start.
        """
        if wish.start not in self.starts:
            raise InvalidInputError(f"{self.name}: allowed is {', '.join(self.starts)}, not {wish.start}")
        if self.mask is not None:
            return self.mask
        if wish.start == "change":
            assert self.case is not None
            return replace(self.case, strength=wish.strength)
        assert self.scan is not None
        inserts = wish.start != "remove"
        wishes = InsertWishes(inserts, wish.start != "insert", [wish.numbers()] if inserts else None)
        return plan_insert(self.scan, bundle, wishes, ReadOptions()).case


class GivenStore:
    """What pages have dropped; forgotten with its page, after `FORGOTTEN_S` without a word of it, or for newer ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[str, Own]] = {}  # id -> page, what it dropped
        self._heard: dict[str, float] = {}  # of each page that holds something

    def add(self, page: str, own: Own) -> str:
        """Hold it for a page; its id."""
        given = secrets.token_hex(16)
        with self._lock:
            self._held[given] = (page, own)
            self._heard[page] = time.monotonic()
            while len(self._held) > 1 and (len(self._held) > MOST or self._bytes() > MOST_BYTES):
                del self._held[next(iter(self._held))]
        return given

    def get(self, page: str, given: str) -> Own:
        """What a page has dropped; InvalidInputError where it is held no more."""
        self.heard(page)
        with self._lock:
            owner, own = self._held.get(given, ("", None))
        if own is None or owner != page:
            raise InvalidInputError("the dropped file is not held any more; drop it again")
        return own

    def of(self, page: str) -> list[str]:
        """The ids of what is held for a page."""
        with self._lock:
            return [given for given, (owner, _) in self._held.items() if owner == page]

    def heard(self, page: str) -> None:
        """A page is still open."""
        with self._lock:
            if page in self._heard:
                self._heard[page] = time.monotonic()

    def forget_silent(self) -> set[str]:
        """Forget what silent pages have dropped; its ids."""
        now = time.monotonic()
        with self._lock:
            silent = [page for page, heard in self._heard.items() if now - heard > FORGOTTEN_S]
        return {given for page in silent for given in self.drop(page)}

    def drop(self, page: str) -> set[str]:
        """Forget what a page has dropped; its ids."""
        with self._lock:
            self._heard.pop(page, None)
            gone = {given for given, (owner, _) in self._held.items() if owner == page}
            for given in gone:
                del self._held[given]
        return gone

    def _bytes(self) -> int:
        return sum(own.bytes for _, own in self._held.values())


@contextmanager
def passing_folder() -> Iterator[Path]:
    """A folder for the moment in which files are read: in memory where the system has such a place, gone afterwards."""
    place = _IN_MEMORY if _IN_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="sbldm-studio-", dir=place) as folder:
        yield Path(folder)


def read_own(folder: Path, received: Received, bundle: Bundle, options: ReadOptions) -> Own:
    """The mask, scan or study that the received files of a folder are.

    One NIfTI file is a mask, whatever its name; several files are a scan, with its mask or healthy, or a DICOM study.

    Raises:
        InvalidInputError, UsageError: they are neither, or not for this model; the folder is not named.
    """
    names = received.names()
    try:
        if len(names) == 1 and names[0].endswith((".nii", ".nii.gz")):
            return _mask(folder, names[0], bundle, options)
        return _scan(folder, received.title, bundle, options)
    except InvalidInputError as error:
        raise InvalidInputError(_without(folder, str(error))) from error


def _mask(folder: Path, file: str, bundle: Bundle, options: ReadOptions) -> Own:
    require_mask_first(bundle)
    name = file.removesuffix(".gz").removesuffix(".nii")
    case, ending = name.removesuffix("_seg"), file.removeprefix(name)
    renamed = f"{case}_seg{ending}"
    (folder / file).rename(folder / renamed)
    columns = [column.name for column in bundle.manifest.condition_columns]
    try:
        masks, warnings = read_masks(folder, columns, bundle.manifest.grid, options)
    except InvalidInputError as error:
        raise InvalidInputError(str(error).replace(renamed, file)) from error
    return Own(name, tuple(warning.replace(renamed, file) for warning in warnings), mask=masks)


def _scan(folder: Path, name: str, bundle: Bundle, options: ReadOptions) -> Own:
    """A scan on its own voxels where the model can change a part of one, and its files take that."""
    manifest = bundle.manifest
    files, _ = one_case(folder, manifest.modalities, options, dicom=True, needs_mask=manifest.mask_first is None)
    is_split = files.study is None and all(image.channel is None for image in files.images.values())
    if manifest.mask_first is None or not is_split:
        case, warnings = read_case(folder, bundle, 0.5, options)
        return Own(name, tuple(warnings), case=case)
    scan = open_scan(folder, bundle, options)
    label = scan.own.grid.label()
    case = SourceCase(scan.image, label, 0.5, scan.voxels) if label.any() else None
    return Own(name, scan.warnings, scan=scan, case=case)


def _without(folder: Path, text: str) -> str:
    return text.replace(f"{folder}/", "").replace(f"{folder}: ", "").replace(str(folder), "the dropped files")
