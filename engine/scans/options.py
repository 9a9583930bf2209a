"""What the user says where files do not settle it: `--labels`, `--cavity`, `--orientation`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import InvalidInputError, UsageError
from .labels import LabelMap, parse_labels

Cavity = Literal["background", "necrosis", "refuse"]
Orientation = Literal["sform", "qform", "RAS"]


@dataclass(frozen=True)
class ReadOptions:
    """How scans and masks are read."""

    labels: LabelMap | None = None  # in place of what names and dataset.json say
    cavity: Cavity = "refuse"  # what a resection cavity counts as
    orientation: Orientation | None = None  # where a header is silent or contradicts itself


def read_options(labels: str | None = None, cavity: str = "refuse", orientation: str | None = None) -> ReadOptions:
    """The options from the command line; UsageError names one that cannot be understood."""
    if cavity not in get_args(Cavity):
        raise UsageError(f"--cavity {cavity}: allowed: {', '.join(get_args(Cavity))}")
    if orientation is not None and orientation not in get_args(Orientation):
        raise UsageError(f"--orientation {orientation}: allowed: {', '.join(get_args(Orientation))}")
    try:
        meaning = None if labels is None else parse_labels(labels)
    except InvalidInputError as error:
        raise UsageError(str(error)) from error
    return ReadOptions(meaning, cavity, orientation)  # type: ignore[arg-type]
