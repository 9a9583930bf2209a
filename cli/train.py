"""`sbldm-engine train`: a cohort in BraTS layout into checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._commands import choices, offered
from ._extras import TrainExtra
from ._scans import Cavity, Labels, Orientation

PRESETS = sorted(file.stem for file in (Path(__file__).resolve().parents[1] / "train" / "presets").glob("*.yaml"))
STAGES = ("autoencoder", "aggregator", "mask", "denoiser", "refiner", "distill", "all")


def train(
    data: Annotated[Path, typer.Option(help="Cohort: BraTS, UCSF-PDGM, UPENN-GBM, BIDS, nnU-Net, Decathlon names.")],
    out: Annotated[Path, typer.Option(help="Training directory; a run that is there is gone on with.")],
    preset: Annotated[
        str,
        typer.Option(help="Or a YAML file.", metavar="|".join((*PRESETS, "FILE")), autocompletion=offered(PRESETS)),
    ] = "phantom",
    stage: Annotated[str, typer.Option(help="What to train.", **choices(*STAGES))] = "all",
    cache: Annotated[Path | None, typer.Option(help="Folder of the prepared cohort (default: OUT/cache).")] = None,
    held_out: Annotated[int, typer.Option(min=0, help="Leave the last N cases of the cohort out of training.")] = 0,
    add_phantoms: Annotated[int, typer.Option(help="Train on N phantoms too, after the cohort's cases.")] = 0,
    steps: Annotated[list[str] | None, typer.Option(help="STAGE=N: steps of a stage in place of the preset's.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    devices: Annotated[int, typer.Option(min=1, help="How many devices of each machine (data parallel).")] = 1,
    precision: Annotated[
        str, typer.Option(help="Of the arithmetic.", **choices("auto", "bf16-mixed", "32-true", "16-mixed"))
    ] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes that prepare the cohort.")] = 2,
    skip_invalid: Annotated[bool, typer.Option(help="Leave faulty cases out instead of refusing the cohort.")] = False,
    masks: Annotated[
        Path | None, typer.Option(help="Masks without images for the mask stage: .npz with `label` on the grid.")
    ] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="Training directory of equal networks: stages begin with its weights.")
    ] = None,
    labels: Labels = None,
    cavity: Cavity = "refuse",
    orientation: Orientation = None,
    restart_stage: Annotated[list[str] | None, typer.Option(help="Make this stage again from nothing.")] = None,
    keep_stale: Annotated[
        bool, typer.Option(help="Keep stages whose earlier stages have changed since; said at each.")
    ] = False,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches that a device adds up before a step.")] = 1,
    keep: Annotated[
        str, typer.Option(help="Weights that a stage ends with: best by held-out cases.", **choices("last", "best"))
    ] = "last",
    patience: Annotated[
        int, typer.Option(min=0, help="Looks at held-out cases without a better one that end a stage; 0: none do.")
    ] = 0,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the networks (torch.compile).")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print networks, stages, multiply-adds and memory, and stop.")] = False,
) -> None:
    """Train a system stage by stage; stopped runs go on from their last checkpoint."""
    from ..engine.scans.options import read_options

    with TrainExtra("train"):
        from ..train.config import load_preset
        from ..train.ranks import machines
        from ..train.run import TrainOptions, plan, progress, run_training, with_steps

    config = with_steps(load_preset(preset), steps or [])
    if dry_run:
        typer.echo(plan(config, stage, devices * machines(), accumulate))
        return
    options = TrainOptions(
        data=data, out=out, stage=stage, cache=cache or out / "cache", held_out=held_out, seed=seed, devices=devices,
        precision=precision, workers=workers, skip_invalid=skip_invalid, read=read_options(labels, cavity, orientation),
        restart=tuple(restart_stage or ()), keep_stale=keep_stale, masks=masks, add_phantoms=add_phantoms,
        start_from=start_from, accumulate=accumulate, keep=keep, patience=patience, compile=compiled,
    )  # fmt: skip
    try:
        run_training(config, options)
    except KeyboardInterrupt:
        typer.echo(
            f"error: interrupted; steps saved in {out}: {progress(out, config)}; the same command goes on from there",
            err=True,
        )
        raise typer.Exit(130) from None
