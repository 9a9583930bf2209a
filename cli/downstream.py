"""`sbldm-engine downstream`: do synthetic cases help a segmenter, and by how much."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._commands import RequireSignature, bundles, choices
from ._extras import TrainExtra
from ._results import AsJson, Cache, Quiet, require_own, tell
from ._scans import Cavity, Labels, Orientation

FIGURES_NAME, TABLES_NAME = "downstream.json", "downstream.md"
ARMS = "real,real+synthetic,synthetic,real+carvemix,real+warped"


def downstream(
    real: Annotated[Path, typer.Option(help="Real cases to train on, in any layout that `train` reads.")],
    test: Annotated[Path, typer.Option(help="Cases that no segmenter is trained on.")],
    synthetic: Annotated[Path | None, typer.Option(help="Samples: a run directory, or any such folder.")] = None,
    out: Annotated[
        Path, typer.Option(help="Directory of downstream.json, downstream.md, plots and each training's scores.")
    ] = Path("downstream"),
    trainer: Annotated[str, typer.Option(help="Segmenter.", **choices("slices", "monai", "nnunet"))] = "slices",
    arms: Annotated[str, typer.Option(help="What to compare.", metavar="A,B,...")] = ARMS,
    real_cases: Annotated[
        str | None, typer.Option(help="Numbers of real cases, for curves; default: all of them.", metavar="N,M,...")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm.")] = 3,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps of every training; default: the trainer's.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A first look: short trainings, some of the cases.")] = False,
    bundle: Annotated[
        str | None, typer.Option(help="Grid and modalities of this model.", autocompletion=bundles)
    ] = None,
    require_signature: RequireSignature = None,
    device: Annotated[
        str, typer.Option(help="Where segmenters train.", **choices("auto", "cpu", "cuda", "cuda:I"))
    ] = "auto",
    cache: Cache = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that prepare the cases.")] = 2,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave faulty cases out.")] = False,
    labels: Labels = None,
    cavity: Cavity = "refuse",
    orientation: Orientation = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train segmenters with and without synthetic cases, test them, compare; a stopped one goes on when given again."""
    import logging

    with TrainExtra("downstream"):
        from ..train.downstream.figures import figures_of
        from ..train.downstream.report import PICTURES, table, write_plots
        from ..train.downstream.run import DownstreamOptions, compare
        from ..train.evaluation.report import plain, write_json
    from ..engine.bundle.load import load_bundle
    from ..engine.bundle.manifest import DEFAULT_GRID, MODALITIES
    from ..engine.files import write_atomic
    from ..engine.scans.options import read_options

    manifest = None if bundle is None else load_bundle(bundle, require_signature).manifest
    named = tuple(name.strip() for name in arms.split(","))
    options = DownstreamOptions(
        real, synthetic, test, out, cache or out / "cache", read_options(labels, cavity, orientation), trainer,
        named if synthetic is not None or arms != ARMS else tuple(n for n in named if not n.endswith("synthetic")),
        _numbers(real_cases), seeds, steps, device, workers, skip_invalid, quick,
        DEFAULT_GRID if manifest is None else manifest.grid,
        MODALITIES if manifest is None else manifest.modalities,
    )  # fmt: skip
    require_own(out, FIGURES_NAME, [TABLES_NAME, *(f"{name}.png" for name in PICTURES)])
    comparison = compare(options, logging.getLogger(__name__).info)
    figures = plain(figures_of(comparison))
    text = table(figures)
    write_json(out / FIGURES_NAME, figures)
    write_atomic(out / TABLES_NAME, text.encode())
    write_plots(out, figures)
    tell(figures, text, as_json)


def _numbers(text: str | None) -> tuple[int, ...]:
    from ..engine.errors import UsageError

    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise UsageError(f"--real-cases {text}: must be numbers with commas between, such as 4,9,18")
    return tuple(map(int, parts))
