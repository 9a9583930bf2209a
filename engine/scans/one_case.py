"""The one case of a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import InvalidInputError
from .cases import CaseFiles
from .discover import discover_cases
from .options import ReadOptions
from .read import CaseError


def one_case(
    folder: Path,
    modalities: Sequence[str],
    options: ReadOptions,
    what: str = "case",
    *,
    dicom: bool = False,
    needs_mask: bool = True,
) -> tuple[CaseFiles, tuple[str, ...]]:
    """Its files, and what should be known of them; `what` is what messages call it, the rest as `discover_cases`.

    Raises:
        InvalidInputError: the folder holds none, several, or one that lacks a file.
    """
    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such directory; give the folder of one {what}")
    found = discover_cases(folder, modalities, options, dicom=dicom, needs_mask=needs_mask)
    if found.faults:
        raise InvalidInputError(
            "\n".join(f"{folder}: {name}: {text}" for name, faults in found.faults.items() for text in faults)
        )
    if len(found.cases) != 1:
        raise InvalidInputError(f"{folder}: holds {len(found.cases)} {what}s; give the folder of one")
    return found.cases[0], tuple(found.notes)


@contextmanager
def faults_of(folder: Path) -> Iterator[None]:
    """What is wrong with the case of a folder, as InvalidInputError of lines that name the folder."""
    try:
        yield
    except CaseError as error:
        raise InvalidInputError("\n".join(f"{folder}: {text}" for text in error.faults)) from error
