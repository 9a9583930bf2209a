"""The ids of a condition table where files are named by them: checked, for run.json."""

from __future__ import annotations

from ..conditions.columns import ConditionRows
from ..conditions.faults import Faults
from ..errors import InvalidInputError, UsageError
from ..output.case_tags import IdTags, id_faults
from .options import RunOptions

MAX_BYTES = 16 * 2**20  # of ids in run.json


def row_ids(given: ConditionRows, options: RunOptions) -> tuple[str, ...] | None:
    """The id of each row, "" where it has none; None where files are named by number.

    Raises:
        InvalidInputError: ids that cannot be part of a file name, or are too many for run.json.
        UsageError: a row is used twice where its id alone may name a file.
    """
    if options.name_by == "sample":
        return None
    if options.layout == "bids" and options.count > len(given):
        raise UsageError(
            f"--name-by id: {options.count} samples of {len(given)} rows; a reused id ends in -2, and BIDS subjects "
            "are letters and digits alone; leave --name-by id away, or give each sample a row"
        )
    ids, size = list[str](), 0
    for row in range(len(given)):
        ids.append(given.at(row)[0])
        size += len(ids[-1]) + 1
        if size > MAX_BYTES:
            raise InvalidInputError(f"{given.source}: more than {MAX_BYTES} bytes of ids; leave --name-by id away")
    faults, tags = Faults(given.source), IdTags(tuple(ids))
    for row, allowed in id_faults(ids):
        faults.add(given.line(row), "id", ids[row], f"{allowed} (--name-by id)")
    for row in range(options.count) if options.layout == "bids" else ():
        if not tags.tag(row).isalnum():
            faults.add(given.line(row), "id", tags.tag(row), "letters and digits alone, as a BIDS subject is named")
    faults.raise_if_any()
    return tags.ids
