"""The ids of a condition table where files are named by them: checked, for run.json."""

from __future__ import annotations

from ..conditions.columns import Conditions
from ..conditions.faults import Faults
from ..errors import InvalidInputError, UsageError
from ..output.case_tags import IdTags, id_faults
from .options import RunOptions

MAX_BYTES = 16 * 2**20  # of ids in run.json


def row_ids(given: Conditions, options: RunOptions) -> tuple[str, ...] | None:
    """The id of each row, "" where it has none; None where files are named by number.

    Raises:
        InvalidInputError: ids that cannot be part of a file name, or are too many for run.json.
        UsageError: a row is used twice where its id alone may name a file.
    """
    if options.name_by == "sample":
        return None
    faults = Faults(given.source)
    for row, allowed in id_faults(given.ids):
        faults.add(given.lines[row], "id", given.ids[row], f"{allowed} (--name-by id)")
    if options.layout == "bids":
        _check_subjects(given, options.count, faults)
    faults.raise_if_any()
    if sum(map(len, given.ids)) > MAX_BYTES:
        raise InvalidInputError(f"{given.source}: ids of more than {MAX_BYTES} bytes; leave --name-by id away")
    return given.ids


def _check_subjects(given: Conditions, count: int, faults: Faults) -> None:
    """BIDS allows nothing but letters and digits in the name of a subject."""
    if count > len(given):
        raise UsageError(
            f"--name-by id: {count} samples of {len(given)} rows; a reused id ends in -2, and BIDS subjects are "
            "letters and digits alone; leave --name-by id away, or give each sample a row"
        )
    tags = IdTags(given.ids)
    for row in range(count):
        if not tags.tag(row).isalnum():
            faults.add(given.lines[row], "id", tags.tag(row), "letters and digits alone, as a BIDS subject is named")
