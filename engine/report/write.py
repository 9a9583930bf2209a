"""A run as one HTML file that works from disk without a network: volumes, plots, faults, provenance."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InvalidInputError, UsageError
from ..files import atomic_file
from ..folder import Folder
from ..run.description import read_description
from ..run.owned import REPORT_NAME
from ..run.volumes import UnreadableError
from ..scans.options import ReadOptions
from .card import find_bundle
from .cohort import compare
from .command import recipe
from .facts import RunFacts, gather
from .page import page
from .volumes import MAX_CASE_BYTES
from .words import quantities

_BEGINS = b"<!doctype html>"

MAX_BYTES = 200_000_000
"""Of a page without `large`."""


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What a report shows."""

    cases: str | None = None  # sample numbers as "3,7-9", or "all"; None: the first good ones
    real: Path | None = None  # a cohort to compare with
    reading: ReadOptions = field(default_factory=ReadOptions)  # of that cohort
    bundle: str | None = None  # name or path of the run's bundle; None: looked for among the shipped ones
    large: bool = False  # more than `MAX_BYTES`


@dataclass(frozen=True)
class Report:
    """What was written."""

    path: Path
    bytes: int
    samples: int  # good ones of the run
    cases: int  # with their volumes
    warnings: tuple[str, ...]


def write_report(
    directory: Path,
    out: Path | None = None,
    options: ReportOptions | None = None,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Write the report of a run directory to `out` (default: `report.html` in it), whole or not at all.

    The same run gives the same bytes. `advance` is called with (real cases measured, all).

    Raises:
        InvalidInputError: no run, files that are not those of the run, an unusable bundle or real cohort.
        UsageError: cases that the run does not have, a page that would be too large, another run's bundle, an `out`
            that is no file, or a file that is no page.
        OSError: it cannot be written.
    """
    options = options or ReportOptions()
    own = directory / REPORT_NAME
    target = (out or own).resolve()
    _require_replaceable(target, own.resolve())
    run = read_description(directory)
    kinds = quantities(run.bundle.columns, run.bundle.grid)
    with Folder(directory) as folder:
        facts = gather(folder, run, options.cases)
        _require_size(facts, options)
        bundle = find_bundle(run, options.bundle)
        compared = None
        if options.real is not None:
            compared = compare(facts, kinds, options.real, options.reading, advance)
        size = 0
        try:
            with atomic_file(target, private=run.is_derived or options.real is not None) as handle:
                for piece in page(folder, facts, kinds, bundle, recipe(run, bundle), compared):
                    data = piece.encode()
                    handle.write(data)
                    size += len(data)
        except UnreadableError as error:
            raise InvalidInputError(f"{directory}: {error}") from error
    logging.getLogger("sbldm").debug(f"report of {len(facts.cohort)} samples written, {size} bytes")
    faults = [] if compared is None else [f"--real: {text}" for text in (*compared.faults, *compared.warnings)]
    return Report(target, size, len(facts.cohort), len(facts.shown), (*facts.warnings(), *faults))


def _require_replaceable(target: Path, own: Path) -> None:
    """UsageError where something is there that is no page, beside the run's own: its other files lie there too."""
    if not target.exists():
        return
    if not target.is_file():
        raise UsageError(f"--out {target}: is no regular file; give the name of a file such as {REPORT_NAME}")
    if target == own:
        return
    with target.open("rb") as handle:
        begins = handle.read(len(_BEGINS))
    if begins.lower() != _BEGINS:
        raise UsageError(f"--out {target}: holds something else than a page; give a new name such as {REPORT_NAME}")


def _require_size(facts: RunFacts, options: ReportOptions) -> None:
    most = len(facts.shown) * MAX_CASE_BYTES
    if most > MAX_BYTES and not options.large:
        raise UsageError(
            f"--cases: {len(facts.shown)} cases may take {most / 1e6:.0f} MB; give fewer of them, or --large for a "
            f"page beyond {MAX_BYTES / 1e6:.0f} MB"
        )
