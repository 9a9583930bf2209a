"""`sbldm-engine evaluate`: fidelity, adherence, memorisation and reconstruction as figures, tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._commands import RequireSignature, choices
from ._extras import TrainExtra
from ._results import AsJson, Cache, Quiet, require_own, tell
from ._scans import Cavity, Labels, Orientation

FIGURES_NAME, TABLES_NAME = "evaluation.json", "evaluation.md"


def evaluate(
    context: typer.Context,
    real: Annotated[
        Path | None, typer.Option(help="Held-out real cases (or a cohort with --held-out); without: samples alone.")
    ] = None,
    synthetic: Annotated[Path | None, typer.Option(help="Samples; a run directory also gives adherence.")] = None,
    train: Annotated[Path | None, typer.Option(help="The training cases, for memorisation.")] = None,
    bundle: Annotated[
        str | None, typer.Option(help="Bundle whose autoencoder gives latents and reconstructions.")
    ] = None,
    require_signature: RequireSignature = None,
    out: Annotated[Path, typer.Option(help="Directory of evaluation.json, evaluation.md and the plots.")] = Path(
        "evaluation"
    ),
    device: Annotated[
        str, typer.Option(help="Where the bundle runs.", **choices("auto", "cpu", "cuda", "cuda:I"))
    ] = "auto",
    reconstruct: Annotated[bool, typer.Option("--reconstruct", help="Also encode and decode the real cases.")] = False,
    held_out: Annotated[
        int, typer.Option(min=0, help="Only the last N cases of --real count; the rest is --train's.")
    ] = 0,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of volumes for the MS-SSIM diversity.")] = 64,
    fid_network: Annotated[
        Path | None, typer.Option(help="ONNX feature network (N, 3, h, w) -> (N, F) for FID, MMD and coverage.")
    ] = None,
    segmenter_steps: Annotated[
        int, typer.Option(min=0, help="Training of each segmenter that judges images against masks; 0 leaves them out.")
    ] = 200,
    any_settings: Annotated[
        bool, typer.Option("--any-settings", help="Also samples that were not made with the bundle's defaults.")
    ] = False,
    card: Annotated[bool, typer.Option("--card", help="Also write the tables into the bundle's model card.")] = False,
    cache: Cache = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that prepare and measure the cases.")] = 2,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Leave faulty real cases out.")] = False,
    labels: Labels = None,
    cavity: Cavity = "refuse",
    orientation: Orientation = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare synthetic with real volumes, and tell how well a bundle's autoencoder reconstructs real ones."""
    from ..engine.errors import UsageError

    with TrainExtra("evaluate"):
        from ..train.evaluation.plots import PICTURES, write_plots
        from ..train.evaluation.report import plain, write_json
        from ..train.evaluation.run import EvaluationOptions
        from ..train.evaluation.run import evaluate as measure
        from ..train.evaluation.scorecard import table
    from ..engine.backends.choose import choose_backend
    from ..engine.bundle.load import is_shipped, load_bundle
    from ..engine.files import write_atomic
    from ..engine.scans.options import read_options

    if card and bundle is None:
        raise UsageError("--card writes into a bundle: give --bundle PATH")
    loaded = None if bundle is None else load_bundle(bundle, require_signature)
    if card and loaded is not None and is_shipped(loaded):
        raise UsageError(
            f"--card: {loaded.path} is shipped, and would be refused once it was changed; copy the folder, and give "
            "--bundle the path of the copy"
        )
    backend = None if loaded is None else choose_backend(loaded, device=device)
    options = EvaluationOptions(
        real, synthetic, train, cache or out / "cache", held_out, pairs, reconstruct, fid_network,
        segmenter_steps, any_settings, workers, skip_invalid, read_options(labels, cavity, orientation),
    )  # fmt: skip
    require_own(out, FIGURES_NAME, [TABLES_NAME, *(f"{name}.png" for name in PICTURES)])
    evaluation = measure(options, loaded, backend)
    evaluation.figures["command"] = _command(context)
    write_json(out / FIGURES_NAME, evaluation.figures)
    text = table(evaluation.figures)
    write_atomic(out / TABLES_NAME, text.encode())
    write_plots(out, evaluation)
    if card and loaded is not None:
        from ..export.evaluated import write_evaluation

        write_evaluation(loaded, text, _command(context))
    tell(plain(evaluation.figures), text, as_json)


def _command(context: typer.Context) -> str:
    """The command line that gives the same tables."""
    import shlex

    words = ["sbldm-engine", "evaluate"]
    for parameter in context.command.params:
        value = context.params[parameter.name or ""]
        if value != parameter.default and parameter.name not in ("card", "cache", "out", "as_json", "quiet"):
            words += [parameter.opts[0], *([] if value is True else [str(value)])]
    return shlex.join(words)
