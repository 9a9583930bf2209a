"""Scans and masks that a client sends: named by the service, and looked at before they are kept."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import InvalidInputError, UsageError
from ..scans.bounded import GZIP_MAGIC, Inflating, UnusableFileError
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


def check_head(head: bytes, job: Job) -> None:
    """Look at the first bytes of an upload: a NIfTI file, its size, its geometry; no voxel is read.

    Raises:
        InvalidInputError: what is wrong with it.
    """
    try:
        parse_header(Inflating(head).take(HEADER_BYTES), job.reading["orientation"])
    except (UnusableFileError, HeaderFault) as error:
        raise InvalidInputError(f"the upload is {error}") from error


def missing_uploads(job: Job, modalities: Iterable[str]) -> list[str]:
    """What must still be sent before a job can start."""
    wanted = upload_names(job, modalities)
    if wanted is None:
        return [] if job.inputs else ["at least one mask"]
    return [name for name in wanted if name not in job.inputs]
