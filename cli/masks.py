"""`sbldm-engine masks`: label files made from label files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, get_args

import typer

from ._commands import Command, Group
from ._progress import shows_a_bar
from ._scans import Cavity, Labels, Orientation, escaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..engine.masks.vary import Edit
    from ..engine.scans.vary import MaskVariant

TABLE = "variants.csv"

app = typer.Typer(cls=Group, no_args_is_help=True, add_completion=False, help="Make masks out of masks.")


@app.callback()
def root() -> None:
    """Make masks out of masks."""


@app.command(cls=Command)
def vary(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Label files; images beside them show the brain.")],
    count: Annotated[int, typer.Option("--count", min=1, help="Variants of each mask.")],
    out: Annotated[Path, typer.Option("--out", help="New or empty directory.")],
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**64 - 1, help="A mask's variants depend on it.")] = 0,
    edits: Annotated[
        str, typer.Option("--edits", help="What is done to a mask.")
    ] = "mirror,place,deform,volume,necrosis",
    ml: Annotated[
        str | None,
        typer.Option("--ml", help="Change of the volume in ml, from least to most; default: -40 to 80 % of it.",
                     metavar="LEAST,MOST"),
    ] = None,
    labels: Labels = None,
    cavity: Cavity = "refuse",
    orientation: Orientation = None,
) -> None:  # fmt: skip
    """Draw plausible variants of every mask, in one piece and inside the brain; protect them as the masks."""
    from rich.console import Console
    from rich.progress import Progress

    from ..engine.scans.options import read_options
    from ..engine.scans.vary import MaskFolder

    chosen, change = _edits(edits), _change(ml)
    if change is not None and "volume" not in chosen:
        _refuse("--ml: belongs to the edit volume, which --edits leaves out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        _refuse(f"--out {out}: must be a new or empty directory")
    masks = MaskFolder(directory, read_options(labels, cavity, orientation))
    for warning in masks.warnings:
        typer.echo(escaped(f"warning: {warning}"), err=True)
    rows: list[MaskVariant] = []
    total = count * len(masks)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not shows_a_bar(console)) as bar:
        task = bar.add_task("variants", total=total)
        for variant in masks.variants(count, seed, chosen, change):
            rows.append(_written(variant, out, seed))
            bar.advance(task)
    _write(out / TABLE, _table(rows).encode())
    typer.echo(f"{out}: {total} variants of {len(masks)} masks")


def _edits(text: str) -> Sequence[Edit]:
    from ..engine.masks.vary import EDITS, Edit

    given = [part.strip() for part in text.split(",")]
    if not set(given) <= set(get_args(Edit)) or len(set(given)) < len(given):
        _refuse(f"--edits {text}: allowed, each once: {', '.join(EDITS)}")
    return [edit for edit in EDITS if edit in given]


def _change(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        least, most = (float(part) for part in text.split(","))
    except ValueError:
        _refuse(f"--ml {text}: must be two numbers of ml, such as -5,10")
    if not -1e4 <= least <= most <= 1e4:
        _refuse(f"--ml {text}: must be from least to most, within 10000 ml")
    return least, most


def _written(variant: MaskVariant, folder: Path, seed: int) -> MaskVariant:
    """The variant, without its voxels once they are in a file of BraTS 2021: NCR 1, ED 2, ET 4."""
    from dataclasses import replace

    import numpy as np

    from ..engine.bundle.manifest import BRATS_LABELS
    from ..engine.output.nifti import SYNTHETIC, nifti_bytes
    from ..engine.versions import installed

    name = _name(variant)
    about = f"{SYNTHETIC} {installed('sbldm-engine')} from a given mask, seed {seed} variant {variant.number}"
    values = np.asarray(BRATS_LABELS, np.uint8)[variant.label]
    _write(folder / name / f"{name}_seg.nii.gz", nifti_bytes(values, variant.affine, about))
    return replace(variant, label=np.zeros((0, 0, 0), np.uint8))


def _name(variant: MaskVariant) -> str:
    return f"{variant.case}-v{variant.number:03d}"


def _write(path: Path, data: bytes) -> None:
    from ..engine.errors import IncompleteRunError
    from ..engine.files import make_directory, write_atomic

    try:
        make_directory(path.parent, 0o700)
        write_atomic(path, data, private=True)
    except OSError as error:
        raise IncompleteRunError(f"{path}: cannot be written ({error.strerror}); give another --out") from error


def _table(rows: Sequence[MaskVariant]) -> str:
    """What was done to each mask, and what it measures, shares of the mask's own field of view."""
    import csv
    import io

    from ..engine.conditions.columns import COLUMNS
    from ..engine.conditions.csv import format_number

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    done = ("mirrored", "moved_x_mm", "moved_y_mm", "moved_z_mm", "volume_before_ml")
    table.writerow(["id", "mask", "variant", *done, *COLUMNS, "pieces", "inside_brain"])
    for row in rows:
        what = [str(row.what.mirrored).lower(), *map(format_number, (*row.what.moved_mm, row.before.volume_ml))]
        measured = row.measured.as_row((*COLUMNS, "pieces", "inside_brain")).values()
        table.writerow([_name(row), row.case, row.number, *what, *map(format_number, measured)])
    return text.getvalue()


def _refuse(text: str) -> NoReturn:
    from ..engine.errors import UsageError

    raise UsageError(text)
