"""`sbldm-engine data`: what the program sees in a data set."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._commands import Command, Group, RequireSignature
from ._scans import Cavity, Labels, Orientation, escaped

if TYPE_CHECKING:
    from ..engine.scans.check import DataCheck
    from ..engine.scans.sheet import Sheet

PREVIEW_NAME = "data-check.png"

app = typer.Typer(cls=Group, no_args_is_help=True, add_completion=False, help="Look at a data set before it is used.")


@app.callback()
def root() -> None:
    """Look at a data set before it is used."""


@app.command(cls=Command)
def check(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Data set: any layout that `train` reads.")],
    bundle: Annotated[str | None, typer.Option(help="Modalities and field of view of this model.")] = None,
    require_signature: RequireSignature = None,
    labels: Labels = None,
    cavity: Cavity = "refuse",
    orientation: Orientation = None,
    preview: Annotated[
        Path | None, typer.Option(help=f"Draw one row of pictures a case (alone: into {PREVIEW_NAME}).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Check every case as `train` does: a line a case, its faults and warnings; exit 3 where a case is faulty."""
    from ..engine.bundle.load import load_bundle
    from ..engine.bundle.manifest import DEFAULT_GRID, MODALITIES
    from ..engine.scans.check import DataCheck
    from ..engine.scans.options import read_options
    from ..engine.scans.sheet import Sheet
    from ..engine.screen import counted

    modalities, view = MODALITIES, DEFAULT_GRID.fov_mm
    if bundle is not None:
        manifest = load_bundle(bundle, require_signature).manifest
        modalities, view = manifest.modalities, manifest.grid.fov_mm
    checked = DataCheck(directory, modalities, view, read_options(labels, cavity, orientation))
    sheet = Sheet(modalities) if preview is not None else None
    if not as_json:
        typer.echo(escaped(f"{directory}: {counted(len(checked), 'case')}, read as {checked.discovery.convention}"))
    for report, loaded in checked.cases():
        if sheet is not None:
            sheet.add(report, loaded)
        if not as_json:
            for line in report.lines():
                typer.echo(escaped(line))
    if sheet is not None and preview is not None:
        _write_sheet(sheet, preview)
    code = 3 if checked.faulty else 0
    _finish(checked, directory, code, as_json)
    return code


def _finish(checked: DataCheck, directory: Path, code: int, as_json: bool) -> None:
    faulty = len(checked.faulty)
    if as_json:
        result = {
            "data": str(directory), "convention": checked.discovery.convention, "modalities": checked.modalities,
            "field_of_view_mm": checked.view_mm, "cases": [report.as_dict() for report in checked.reports],
            "warnings": checked.notes, "unused": [str(path) for path in checked.discovery.unused],
            "faulty": faulty, "exit_code": code,
        }  # fmt: skip
        typer.echo(json.dumps(result, allow_nan=False))
        return
    for note in checked.notes:
        typer.echo(escaped(f"warning: {note}"))
    if faulty:
        typer.echo(f"error: {faulty} of {len(checked.reports)} cases are faulty", err=True)


def _write_sheet(sheet: Sheet, path: Path) -> None:
    from ..engine.errors import UsageError
    from ..engine.files import write_atomic

    data = io.BytesIO()
    sheet.draw().save(data, "PNG")
    try:
        write_atomic(path.resolve(), data.getvalue())
    except OSError as error:
        raise UsageError(f"--preview {path}: cannot be written ({error.strerror})") from error
