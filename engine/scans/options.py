"""What the user says where files do not settle it: `--labels`, `--cavity`, `--orientation`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from ..bundle.manifest import MODALITIES, SEGMENTATION
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
    series: Mapping[str, str] = field(default_factory=dict)  # of DICOM: modality or "seg" -> series number or UID


def read_options(
    labels: str | None = None, cavity: str = "refuse", orientation: str | None = None, series: str | None = None
) -> ReadOptions:
    """The options from the command line; UsageError names one that cannot be understood."""
    if cavity not in get_args(Cavity):
        raise UsageError(f"--cavity {cavity}: allowed: {', '.join(get_args(Cavity))}")
    if orientation is not None and orientation not in get_args(Orientation):
        raise UsageError(f"--orientation {orientation}: allowed: {', '.join(get_args(Orientation))}")
    try:
        meaning = None if labels is None else parse_labels(labels)
    except InvalidInputError as error:
        raise UsageError(str(error)) from error
    return ReadOptions(meaning, cavity, orientation, parse_map(series or ""))  # type: ignore[arg-type]


def parse_map(text: str) -> dict[str, str]:
    """`t1=3,t1ce=7,seg=9` as the user gives it: modality or seg -> series number or UID.

    Raises:
        UsageError: an entry that is none, a modality or series twice.
    """
    given: dict[str, str] = {}
    for entry in text.split(",") if text else ():
        role, _, series = (part.strip() for part in entry.partition("="))
        if role not in (*MODALITIES, SEGMENTATION) or not re.fullmatch(r"[0-9.]{1,64}", series, re.ASCII):
            roles = ", ".join((*MODALITIES, SEGMENTATION))
            raise UsageError(f"--map {text!r}: {entry!r} is no ROLE=SERIES; roles: {roles}; series: number or UID")
        if role in given or series in given.values():
            raise UsageError(f"--map {text!r}: {role} or series {series} twice")
        given[role] = series
    return given
