"""Adding cases to a data set so that it is either as it was or holds them all, whenever the process ends.

What will be done is written to a journal in the data set first, and the journal is removed last; a call that finds one
undoes what it tells of, and begins anew. The journal is locked while it is worked on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ..decode import decode
from ..errors import IncompleteRunError, InvalidInputError, UsageError
from ..files import FULL, make_directory, read_bounded
from ..folder import Folder, temporary_of
from ..locked_files import LockedFile
from ..locks import LockHeldError

JOURNAL_NAME = "sbldm-add-to.json"
DATASET_NAME, SPLITS_NAME = "dataset.json", "splits_final.json"
MAX_JSON_BYTES = 256 * 2**20
_CHECKSUM = "sha256"
_CASE_FILE = re.compile(r"imagesTr/sbldm-[\w-]+_\d{4}\.nii\.gz|labelsTr/sbldm-[\w-]+\.nii\.gz", re.ASCII)


@dataclass(frozen=True)
class TextChange:
    """A text file before and after."""

    path: str
    before: str | None  # None: it was not there
    after: str


@dataclass(frozen=True)
class PlannedAddition:
    """The content of the journal."""

    run: str  # id of the run whose cases are added
    files: dict[str, str]  # sha256 of the files that the data set gets, by name
    splits: TextChange
    dataset: TextChange

    def to_bytes(self) -> bytes:
        """The bytes of the journal, with their checksum."""
        return (json.dumps({**asdict(self), _CHECKSUM: self.checksum()}) + "\n").encode()

    def checksum(self) -> str:
        """sha256 of the content."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def owned_in_dataset(name: str) -> bool:
    """Whether an addition may make, replace or remove a file of this name in a data set."""
    return name in (JOURNAL_NAME, DATASET_NAME) or _CASE_FILE.fullmatch(name) is not None


def planned(
    target: Folder, run: str, files: dict[str, str], splits: Path, folds_text: str, dataset_text: str
) -> PlannedAddition:
    """The plan of adding `files` (sha256 by name); files that are there already, unchanged, are no part of it.

    Raises:
        UsageError: another file has one of the names.
    """
    missing: dict[str, str] = {}
    for name, sha256 in files.items():
        if not target.has(name):
            missing[name] = sha256
        elif target.status(name) is None or target.sha256(name) != sha256:
            raise UsageError(f"{target.root / name}: belongs to another run; add each run to a data set of its own")
    dataset = target.root / DATASET_NAME
    return PlannedAddition(
        run, missing, TextChange(str(splits), _text(splits), folds_text),
        TextChange(str(dataset), _text(dataset), dataset_text),
    )  # fmt: skip


@contextmanager
def open_journal(target: Folder) -> Iterator[LockedFile]:
    """The journal of a data set, locked, made if absent; one that stayed empty is removed again.

    Raises:
        UsageError: another process adds cases to this data set.
        IncompleteRunError: it cannot be written.
    """
    try:
        while not (journal := target.appending(JOURNAL_NAME)).is_the_named_file():
            journal.close()  # its last holder removed it
    except LockHeldError as error:
        raise UsageError(f"{target.root}: another process adds cases to it; wait for it to end\n{error}") from None
    except OSError as error:
        raise IncompleteRunError(f"{target.root}: cannot be written ({error.strerror}); nothing was changed") from error
    try:
        yield journal
    finally:
        with suppress(OSError):
            if journal.size() == 0:
                target.remove(JOURNAL_NAME)
        journal.close()


def add_all(
    addition: PlannedAddition,
    journal: LockedFile,
    source: Folder,
    target: Folder,
    *,
    link: bool,
    origins: Mapping[str, str],
    rewritten: Callable[[str], bytes | None] = lambda name: None,
) -> None:
    """Carry a plan out, or undo it where that fails.

    `origins`: the run's name of each file; `rewritten` gives the bytes of a file that is not taken as it is.

    Raises:
        IncompleteRunError: the disk is full or refuses.
    """
    changes = (addition.splits, addition.dataset)
    if not addition.files and all(change.before == change.after for change in changes):
        return
    try:
        make_directory(Path(addition.splits.path).parent)
        journal.append(addition.to_bytes())
        journal.sync_name()
        for name in addition.files:
            data = rewritten(name)
            if data is None:
                target.bring(source, origins[name], name, link=link)
            else:
                target.write(name, data)
        for change in changes:
            _put(target, change.path, change.after)
        target.remove(JOURNAL_NAME, sync=True)
    except BaseException as error:
        _undo_after(error, addition, journal, target)
        if not isinstance(error, OSError):
            raise
        reason = "no room left on the disk" if error.errno in FULL else error.strerror or str(error)
        raise IncompleteRunError(
            f"{target.root}: the cases were not added ({reason}); the data set is as it was. Mend that and try again"
        ) from error


def settle_interrupted(journal: LockedFile, target: Folder, splits: Path) -> None:
    """Undo what a killed call left; the call that asks, of whichever run, then begins anew.

    Raises:
        InvalidInputError: the journal is damaged, or belongs to other splits.
        IncompleteRunError: the disk refuses.
    """
    journal.cut_torn_line()  # of a call that was killed before it did anything
    if journal.size() == 0:
        return
    addition = _read_journal(target)
    if addition.splits.path != str(splits) or addition.dataset.path != str(target.root / DATASET_NAME):
        raise InvalidInputError(
            f"{target.root / JOURNAL_NAME}: an interrupted addition changed {addition.splits.path} of "
            f"{addition.dataset.path}; name these by --splits and --add-to so that it can be undone"
        )
    try:
        _undo(addition, journal, target)
    except OSError as error:
        raise IncompleteRunError(
            f"{target.root}: an interrupted addition cannot be undone ({error.strerror})"
        ) from error


def _undo_after(error: BaseException, addition: PlannedAddition, journal: LockedFile, target: Folder) -> None:
    try:
        _undo(addition, journal, target)
    except OSError as second:
        raise IncompleteRunError(
            f"{target.root}: adding cases failed ({error}) and could not be undone ({second.strerror}); "
            "mend that and give the same command again: it undoes what is half done first"
        ) from error


def _undo(addition: PlannedAddition, journal: LockedFile, target: Folder) -> None:
    """Bring a data set back to what it was; what somebody else changed meanwhile is left alone."""
    for change in (addition.dataset, addition.splits):
        if _text(Path(change.path)) == change.after:
            _put(target, change.path, change.before)
    _clear_temporaries(addition, target)
    folders = set[str]()
    for name, sha256 in addition.files.items():
        if target.status(name) is not None and target.sha256(name) == sha256 and target.remove(name):
            folders.add(name)
    for name in folders:
        target.sync(name)
    journal.clear()


def _clear_temporaries(addition: PlannedAddition, target: Folder) -> None:
    target.clear_temporaries(lambda name: name in addition.files or name == DATASET_NAME)
    splits = Path(addition.splits.path)
    if splits.parent.is_dir():
        for path in splits.parent.iterdir():
            if path.name != splits.name and temporary_of(path.name) == splits.name:
                _splits_folder(splits).clear_temporaries(lambda name: name == splits.name)
                break


def _splits_folder(splits: Path) -> Folder:
    return Folder(splits.parent, lambda name: name == splits.name)


def _put(target: Folder, path: str, text: str | None) -> None:
    place = Path(path)
    folder, name = (
        (target, DATASET_NAME) if place == target.root / DATASET_NAME else (_splits_folder(place), place.name)
    )
    if text is None:
        folder.remove(name, sync=True)
    else:
        folder.write(name, text.encode())


def _read_journal(target: Folder) -> PlannedAddition:
    where = str(target.root / JOURNAL_NAME)
    try:
        data = json.loads(target.read(JOURNAL_NAME, MAX_JSON_BYTES))
        recorded = data.pop(_CHECKSUM, None) if isinstance(data, dict) else None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(
            f"{where}: cannot be read ({error}); remove it if it is not from sbldm-engine"
        ) from error
    addition = decode(PlannedAddition, data, where)
    if recorded != addition.checksum() or not all(map(owned_in_dataset, addition.files)):
        raise InvalidInputError(f"{where}: was changed since it was written, so nothing can be undone by it; remove it")
    return addition


def _text(path: Path) -> str | None:
    """Content of a UTF-8 file; None where there is none."""
    try:
        return read_bounded(path, MAX_JSON_BYTES).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path}: is not UTF-8 text") from error
