"""Cases that samples must not be copies of, read from their folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..bundle.manifest import Grid
from ..copies import MIN_HONEST, CopyReference, Features, describe
from ..errors import InvalidInputError
from ..screen import counted
from .case import load_case, modalities_to_read
from .cases import CaseFiles
from .discover import discover_cases
from .measure import of_each_case
from .options import ReadOptions
from .prepare import prepare_case
from .read import read_contents


def read_references(
    folder: Path,
    modalities: Sequence[str],
    grid: Grid,
    options: ReadOptions,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> CopyReference:
    """What is compared of every case below a folder, brought to the grid as training brings it; no image is kept.

    `advance` is called with (cases done, cases in all).

    Raises:
        InvalidInputError: faulty cases, all are named, or too few of them to tell how like patients are to each other.
    """

    def described(case: CaseFiles) -> Features:
        contents = read_contents(case, modalities_to_read(case, modalities))
        prepared = prepare_case(load_case(case, modalities, contents, options, grid.fov_mm), grid)
        return describe(prepared.image, grid.spacing_mm)

    found, faults = of_each_case(discover_cases(folder, modalities, options), described, advance)
    if faults:
        told = [f"{folder}: {name}: {text}" for name, texts in sorted(faults.items()) for text in texts]
        raise InvalidInputError("\n".join(told))
    if len(found) < MIN_HONEST:
        raise InvalidInputError(
            f"{folder}: holds {counted(len(found), 'case')}; {MIN_HONEST} or more tell how like patients are to each "
            "other"
        )
    return CopyReference.of(found.values(), grid.spacing_mm)
