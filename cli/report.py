"""`sbldm-engine report`: a run as one HTML file to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._progress import shows_a_bar
from ._scans import Cavity, Labels, Orientation, escaped

if TYPE_CHECKING:
    from ..engine.report.write import Report, ReportOptions


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a run.")],
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default: DIR/report.html.")] = None,
    cases: Annotated[
        str | None,
        typer.Option(
            "--cases",
            help="Samples with their volumes, 2.5 MB each at most: all, or numbers; default: the first 12.",
            metavar="3,7-9|all",
        ),
    ] = None,
    real: Annotated[Path | None, typer.Option("--real", help="Real cohort to compare distributions with.")] = None,
    bundle: Annotated[
        str | None, typer.Option("--bundle", help="The run's bundle, for its model card, if it is not a shipped one.")
    ] = None,
    large: Annotated[bool, typer.Option("--large", help="Allow a page of more than 200 MB.")] = False,
    labels: Labels = None,
    cavity: Cavity = "refuse",
    orientation: Orientation = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; warnings and errors only.")] = False,
) -> None:
    """Write one HTML file: volumes in 3D, requested against measured, faults, provenance. It needs no network."""
    from rich.console import Console
    from rich.progress import Progress

    from ..engine.report.write import ReportOptions
    from ..engine.scans.options import read_options
    from ..engine.screen import counted, size_text

    options = ReportOptions(
        cases=cases, real=real, reading=read_options(labels, cavity, orientation), bundle=bundle, large=large
    )
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not shows_a_bar(console)) as bar:
        task = bar.add_task("real cases", visible=real is not None)
        written = write(directory, out, options, lambda done, total: bar.update(task, completed=done, total=total))
    for line in written.warnings:
        typer.echo(escaped(f"warning: {line}"), err=True)
    if as_json:
        typer.echo(json.dumps({**vars(written), "path": str(written.path)}))
    else:
        size, samples = size_text(written.bytes), counted(written.samples, "sample")
        typer.echo(escaped(f"{samples}, {written.cases} in 3D, {size}: {written.path}"))


def write(directory: Path, out: Path | None, options: ReportOptions, advance=lambda done, total: None) -> Report:
    """`write_report`, whose file the disk may refuse.

    Raises:
        SbldmError: see `write_report`; IncompleteRunError where there is no room for the file.
        UsageError: the file cannot be written.
    """
    from ..engine.errors import IncompleteRunError, UsageError
    from ..engine.files import FULL
    from ..engine.report.write import write_report

    try:
        return write_report(directory, out, options, advance)
    except OSError as error:
        where = out or directory
        if error.errno in FULL:
            raise IncompleteRunError(
                f"{where}: no room left on the disk for the report; nothing was written"
            ) from error
        raise UsageError(f"{where}: {error.strerror or error}; nothing was written") from error
