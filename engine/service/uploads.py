"""Scans and masks that a client sends: named by the service, and looked at before they are kept."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import InvalidInputError, UsageError
from ..folder import Folder
from ..scans.bounded import GZIP_MAGIC, Inflating, Passing, UnusableFileError
from ..scans.header import HEADER_BYTES, HeaderFault, parse_header
from .job import INPUTS_NAME, Job

CASE = "case"  # the name of an uploaded case
HEAD_BYTES = 1 << 16  # of a file, which hold its header whatever gzip made of it
_MASK = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SEGMENTATION = "seg"


def upload_names(job: Job, modalities: Iterable[str]) -> list[str] | None:
    """The uploads that a job takes; None where they are masks, whose names are the client's."""
    return [*modalities, _SEGMENTATION] if job.kind == "augment" else None


def check_name(job: Job, name: str, modalities: Iterable[str]) -> None:
    """UsageError where a job takes no upload of this name."""
    if job.kind == "generate":
        raise UsageError("a job of kind generate takes no uploads")
    allowed = upload_names(job, modalities)
    if allowed is not None and name not in allowed:
        raise UsageError(f"an upload of this job must be one of {', '.join(allowed)}")
    if not _MASK.fullmatch(name):
        raise UsageError("the name of a mask must be of a-z 0-9 and -, at most 32, and begin with a letter or digit")


def upload_path(job: Job, name: str, head: bytes) -> str:
    """Where an upload lies in the folder of its job; its name was checked."""
    ending = ".nii.gz" if head[:2] == GZIP_MAGIC else ".nii"
    case, part = (CASE, name) if job.kind == "augment" else (name, _SEGMENTATION)
    return f"{INPUTS_NAME}/{case}/{case}_{part}{ending}"


def bytes_wanted(head: bytes, job: Job) -> int:
    """What an upload holds, decompressed, by its first bytes: those of a NIfTI file of sound size and geometry.

    Raises:
        UnusableFileError, HeaderFault: what is wrong with it.
    """
    header = parse_header(Inflating(head).take(HEADER_BYTES), job.reading["orientation"])
    return header.offset + math.prod(header.shape) * header.dtype.itemsize


class Upload:
    """An upload that is being written: whole under its name once it is kept, gone where it is dropped.

    Raises:
        InvalidInputError: (of each call but `drop`) it is no scan, or damaged.
        OSError: the disk refuses.
    """

    def __init__(self, folder: Path, job: Job, name: str, head: bytes) -> None:
        self.size = 0
        with _told():
            self._passing = Passing(bytes_wanted(head, job))
        self._path = upload_path(job, name, head)
        self._stack = ExitStack()
        self._folder = self._stack.enter_context(Folder(folder, private=True))
        self._handle = self._stack.enter_context(self._folder.writing(self._path))

    def write(self, data: bytes) -> None:
        """Add bytes, the first ones too."""
        with _told():
            self._passing.take(data)
        self._handle.write(data)
        self.size += len(data)

    def keep(self) -> None:
        """Give the file its name, in place of one that was sent before."""
        with _told():
            self._passing.finish()
        other = f"{self._path}.gz" if self._path.endswith(".nii") else self._path.removesuffix(".gz")
        self._folder.remove(other)
        self._stack.close()

    def drop(self) -> None:
        """Remove what was written, if it was not kept."""
        dropped = InvalidInputError("dropped")
        with suppress(InvalidInputError):
            self._stack.__exit__(InvalidInputError, dropped, None)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (UnusableFileError, HeaderFault) as error:
        raise InvalidInputError(f"the upload is {error}") from error


def missing_uploads(job: Job, modalities: Iterable[str]) -> list[str]:
    """What must still be sent before a job can start."""
    wanted = upload_names(job, modalities)
    if wanted is None:
        return [] if job.inputs else ["at least one mask"]
    return [name for name in wanted if name not in job.inputs]
