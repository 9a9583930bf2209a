"""`sbldm-engine phantom`: a procedural cohort in BraTS layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._extras import TrainExtra
from ._progress import shows_a_bar


def phantom(
    count: Annotated[int, typer.Option("--count", help="Number of cases, 1 or more.")],
    out: Annotated[Path, typer.Option("--out", help="New or empty directory.")],
    seed: Annotated[int, typer.Option("--seed", help="Seed of the cohort, 0 or more.")] = 0,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Use the three anatomies that no training cohort has, for tests.")
    ] = False,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes; default: one a CPU.")] = None,
) -> None:
    """Make a procedural cohort (no patient data): t1, t1ce, t2, flair and seg of every case, 240x240x155 at 1 mm."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from ..engine.processor import available_threads
    from ..engine.screen import counted

    with TrainExtra("phantom"):
        from ..train.phantom import HELD_OUT, TRAINING, write_cohort

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    try:
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=not shows_a_bar(console)) as progress:
            task = progress.add_task("phantoms", total=max(count, 0))
            write_cohort(
                out,
                count,
                seed,
                workers if workers is not None else available_threads(),
                lambda done: progress.update(task, completed=done),
                anatomies=HELD_OUT if held_out else TRAINING,
            )
    except KeyboardInterrupt:
        typer.echo(f"error: interrupted; files in {out} are whole, make the cohort anew in another directory", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"{counted(count, 'case')} in {out}")
