"""`sbldm-engine conditions`: check a table, measure a cohort's tumours, draw plausible ones."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ._commands import Command, Group, RequireSignature
from ._progress import shows_a_bar
from ._scans import Cavity, Labels, Map, Orientation, escaped

app = typer.Typer(
    cls=Group, no_args_is_help=True, add_completion=False, help="Check, measure or draw tumour characteristics."
)

Out = Annotated[Path | None, typer.Option(help="Write the CSV here instead of to stdout.")]


class FieldOfViewOf(StrEnum):
    """What centres and boxes are shares of."""

    model = "model"
    scan = "scan"


@app.command(cls=Command)
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Condition table (CSV).")],
    bundle: Annotated[
        str | None, typer.Option(help="Model it is for: name or path (default: the shipped one).")
    ] = None,
    require_signature: RequireSignature = None,
    strict: Annotated[bool, typer.Option(help="Rows far from the training cohort are errors, not warnings.")] = False,
) -> None:
    """Check a condition table against a model: all its faults, and rows far from the training cohort."""
    from ..engine.bundle.load import DEFAULT_BUNDLE, load_bundle
    from ..engine.conditions.csv import read_conditions
    from ..engine.conditions.unusual import UnusualRows
    from ..engine.errors import InvalidInputError

    manifest = load_bundle(bundle or DEFAULT_BUNDLE, require_signature).manifest
    columns = tuple(column.name for column in manifest.condition_columns)
    watch = UnusualRows(manifest.cohort)
    conditions = read_conditions(file, columns, manifest.grid.fov_mm, watch)
    unusual = watch.messages(str(file))
    if unusual and strict:
        raise InvalidInputError("\n".join(unusual))
    for message in unusual:
        typer.echo(f"warning: {message}", err=True)
    rows = f"{len(conditions)} row" + ("s" if len(conditions) > 1 else "")
    typer.echo(f"{file}: {rows} for {manifest.id}; given: {conditions.given()}")


@app.command(cls=Command)
def measure(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Cohort: any layout that `train` reads, or DICOM.")],
    out: Out = None,
    bundle: Annotated[str | None, typer.Option(help="Columns and field of view of this model's grid.")] = None,
    require_signature: RequireSignature = None,
    fov: Annotated[
        FieldOfViewOf,
        typer.Option(help="Whose field of view places and boxes are shares of.", metavar="[model|scan]"),
    ] = FieldOfViewOf.model,
    skip_invalid: Annotated[bool, typer.Option(help="Leave faulty cases out instead of refusing the cohort.")] = False,
    labels: Labels = None,
    cavity: Cavity = "refuse",
    orientation: Orientation = None,
    series: Map = None,
) -> None:
    """Measure the tumours of a cohort; without --bundle for a model with all columns on the default grid."""
    from rich.console import Console
    from rich.progress import Progress

    from ..engine.bundle.load import load_bundle
    from ..engine.bundle.manifest import DEFAULT_GRID
    from ..engine.conditions.columns import COLUMNS
    from ..engine.conditions.csv import conditions_csv
    from ..engine.errors import InvalidInputError
    from ..engine.scans.measure import measure_cohort
    from ..engine.scans.options import read_options

    columns, grid = COLUMNS, DEFAULT_GRID
    if bundle is not None:
        manifest = load_bundle(bundle, require_signature).manifest
        columns, grid = tuple(column.name for column in manifest.condition_columns), manifest.grid
    view = grid.fov_mm if fov is FieldOfViewOf.model else None
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not shows_a_bar(console)) as bar:
        task = bar.add_task("cases")
        measured = measure_cohort(
            directory, columns, view, lambda done, total: bar.update(task, completed=done, total=total),
            read_options(labels, cavity, orientation, series),
        )  # fmt: skip
    for warning in measured.warnings:
        typer.echo(escaped(f"warning: {warning}"), err=True)
    faults = escaped("\n".join(measured.faults))
    if measured.faults and not skip_invalid:
        raise InvalidInputError(f"{directory}: faulty cases (--skip-invalid leaves them out):\n{faults}")
    if not measured.names:
        raise InvalidInputError(f"{directory}: no case is left:\n{faults}")
    if measured.faults:
        typer.echo(f"warning: left out:\n{faults}", err=True)
    _write(conditions_csv(columns, measured.names, measured.rows), out)


@app.command(cls=Command)
def sample(
    count: Annotated[int, typer.Option(min=1, help="How many rows.")],
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Row k is the same for every count.")] = 0,
    bundle: Annotated[str | None, typer.Option(help="Model: name or path (default: the shipped one).")] = None,
    require_signature: RequireSignature = None,
    out: Out = None,
) -> None:
    """Draw plausible conditions from the distribution of a model's training cohort."""
    from ..engine.bundle.load import DEFAULT_BUNDLE, load_bundle
    from ..engine.conditions.csv import conditions_csv

    cohort = load_bundle(bundle or DEFAULT_BUNDLE, require_signature).manifest.cohort
    _write(conditions_csv(cohort.columns, [str(k) for k in range(count)], cohort.sample(count, seed)), out)


def _write(text: str, out: Path | None) -> None:
    from ..engine.errors import UsageError
    from ..engine.files import write_atomic

    if out is None:
        typer.echo(text, nl=False)
        return
    target = out.resolve()
    if target.exists() and not target.is_file():
        raise UsageError(f"{out}: not a regular file; give another --out")
    try:
        write_atomic(target, text.encode())
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror}); give another --out") from error
