"""The numbers that a data set of nnU-Net gives to the tissues of our own masks, by the names in its `dataset.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InvalidInputError, UsageError
from .dataset_json import parse_label_values
from .labels import TISSUE_NAMES, TISSUES, WHOLE_TUMOUR, LabelMap, labels_by_name, plain

MAX_WRITTEN = 255  # masks of ours are 8-bit


def renumbering(target: Mapping[str, Any], ours: Mapping[str, int], where: Path) -> dict[int, int]:
    """Our value -> the target's, for every foreground value of ours.

    Args:
        target: content of the target's `dataset.json`; `where` is its path.
        ours: name -> value of the run's masks.

    Raises:
        UsageError: its labels do not tell a tissue of ours, or tell it by several numbers.
    """
    try:
        named = parse_label_values(where, target.get("labels"))
        theirs = labels_by_name(named, f"{where}: labels")
    except InvalidInputError as error:
        raise UsageError(str(error)) from error
    if theirs.is_binary:
        _require_whole_tumour(named, theirs, where)
    own = labels_by_name({name: frozenset({value}) for name, value in ours.items()}, "the run's labels")
    return {value: _value(kind, own, theirs, where) for value, kind in own.values.items() if kind in TISSUES}


def _require_whole_tumour(named: Mapping[str, frozenset[int]], theirs: LabelMap, where: Path) -> None:
    """One label gets all tissues: UsageError where its name is that of a part, or of something else."""
    for name, numbers in named.items():
        other = plain(name) not in WHOLE_TUMOUR
        if other and any(theirs.values[number] in TISSUES for number in numbers):
            raise UsageError(
                f"{where}: labels: {name!r} is the one label, and no name of a whole tumour, which the synthetic masks "
                f"have (spellings: {', '.join(WHOLE_TUMOUR)})"
            )


def _value(kind: int, own: LabelMap, theirs: LabelMap, where: Path) -> int:
    if theirs.is_binary:
        found = next(value for value, mapped in theirs.values.items() if mapped in TISSUES)
    elif own.is_binary:
        raise UsageError(
            f"{where}: labels: are {theirs.described()}; the synthetic masks have one tumour label, not its tissues"
        )
    else:
        found = theirs.value_of(kind)
    if found is None:
        raise UsageError(
            f"{where}: labels: are {theirs.described()}; the synthetic masks need one number for {TISSUE_NAMES[kind]}"
        )
    if found > MAX_WRITTEN:
        raise UsageError(f"{where}: labels: {TISSUE_NAMES[kind]} is {found}; synthetic masks hold 0 to {MAX_WRITTEN}")
    return found
