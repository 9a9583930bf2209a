"""Cases that a model of this program made, among those that are given as scans."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from ...engine.errors import InvalidInputError
from ...engine.screen import counted
from .cohort import Cohort, report_faults

NO_SCAN = "was made by sbldm-engine (its mask says so); it is no scan"

log = logging.getLogger(__name__)


def samples_in(cohort: Cohort) -> list[str]:
    """Names of the cases that a model of this program made."""
    return [entry.name for entry in cohort.entries if entry.source == "sample"]


def only_scans(cohort: Cohort, folder: Path, *, skip_invalid: bool) -> Cohort:
    """The cohort of `folder`, whose cases have to be scans or phantoms; with `skip_invalid` samples are left out.

    Raises:
        InvalidInputError: naming the samples; or no other case is there.
    """
    faults = {name: [NO_SCAN] for name in samples_in(cohort)}
    report_faults(folder, faults, skip_invalid=skip_invalid)
    scans = tuple(entry for entry in cohort.entries if entry.name not in faults)
    if not scans:
        raise InvalidInputError(f"{folder}: all of its cases were made by sbldm-engine; scans are needed")
    return dataclasses.replace(cohort, entries=scans, left_out={**cohort.left_out, **faults})


def tell_of_samples(cohort: Cohort, folder: Path) -> None:
    """Warn of training cases that a model of this program made."""
    found = samples_in(cohort)
    if found:
        log.warning(
            "%s: %s made by sbldm-engine, such as %s: a model repeats the faults of the one that made them",
            folder, counted(len(found), "case"), found[0],
        )  # fmt: skip
