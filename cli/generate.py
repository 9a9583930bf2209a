"""`sbldm-engine generate`: conditions in, synthetic volumes and masks out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_RUN, _MODEL, _FILES, _SHOW = "The run", "Sampling", "Files", "What is shown"


def generate(
    out: Annotated[Path, typer.Option("--out", help="New or empty directory.", rich_help_panel=_RUN)],
    count: Annotated[
        int | None,
        typer.Option("--count", help="Samples to make; default: one a row of --conditions.", rich_help_panel=_RUN),
    ] = None,
    conditions: Annotated[
        Path | None,
        typer.Option("--conditions", help="CSV of wanted tumours; what it leaves open is drawn.", rich_help_panel=_RUN),
    ] = None,
    bundle: Annotated[
        str, typer.Option("--bundle", help="Name of a shipped bundle, or a path.", rich_help_panel=_RUN)
    ] = "phantom",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the run, 0 to 2^64 - 1.", rich_help_panel=_RUN)] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out.", rich_help_panel=_RUN)
    ] = False,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Make only part I (from 0) of N.", rich_help_panel=_RUN)
    ] = None,
    samples: Annotated[
        str | None,
        typer.Option("--samples", metavar="3,7-9", help="Make only these samples of the run.", rich_help_panel=_RUN),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Processes on this machine.", rich_help_panel=_RUN)] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Run on a Ray cluster: host:port, the one that runs here, or local to start one.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse tumours far from the training cohort.", rich_help_panel=_RUN)
    ] = False,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Denoising steps; default: the bundle's.", rich_help_panel=_MODEL)
    ] = None,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="ddim or dpmpp-2m; default: the bundle's.", rich_help_panel=_MODEL)
    ] = None,
    eta: Annotated[
        float | None,
        typer.Option("--eta", help="Noise of DDIM steps, 0 to 1; default: the bundle's.", rich_help_panel=_MODEL),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance", help="Classifier-free guidance, 1 is none; default: the bundle's.", rich_help_panel=_MODEL
        ),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            "--batch-size",
            metavar="N|auto",
            help="Samples a batch; default: 1 on a CPU, measured on a GPU.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="auto, onnxruntime, openvino or tensorrt.", rich_help_panel=_MODEL)
    ] = "auto",
    device: Annotated[
        str, typer.Option("--device", help="auto, cpu, cuda or cuda:I.", rich_help_panel=_MODEL)
    ] = "auto",
    precision: Annotated[
        str, typer.Option("--precision", help="auto, or what the backend offers.", rich_help_panel=_MODEL)
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads a process; default: all.", rich_help_panel=_MODEL)
    ] = None,
    reject: Annotated[
        float | None,
        typer.Option(
            "--reject",
            metavar="TOL",
            help="Redraw tumours that miss the request by more than this share.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    attempts: Annotated[
        int,
        typer.Option(
            "--attempts", help="Redraws at most, with --reject; then the best is kept.", rich_help_panel=_MODEL
        ),
    ] = 4,
    layout: Annotated[str, typer.Option("--layout", help="brats, nnunet or bids.", rich_help_panel=_FILES)] = "brats",
    names: Annotated[
        str, typer.Option("--names", help="BraTS file names of 2021 or 2023.", rich_help_panel=_FILES)
    ] = "2021",
    grid: Annotated[
        str, typer.Option("--grid", help="native, or brats (240x240x155 at 1 mm).", rich_help_panel=_FILES)
    ] = "native",
    add_to: Annotated[
        Path | None,
        typer.Option(
            "--add-to",
            help="With --layout nnunet: raw data set that gets the cases as training cases.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option("--splits", help="Its splits_final.json, if not in $nnUNet_preprocessed.", rich_help_panel=_FILES),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Write a contact sheet, preview.png.", rich_help_panel=_FILES)
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as one JSON object.", rich_help_panel=_SHOW)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress; warnings and errors only.", rich_help_panel=_SHOW)
    ] = False,
    log_format: Annotated[
        str, typer.Option("--log-format", help="text, or json: one object a line on stderr.", rich_help_panel=_SHOW)
    ] = "text",
    metrics_file: Annotated[
        Path | None,
        typer.Option("--metrics-file", help="Keep figures here in Prometheus text format.", rich_help_panel=_SHOW),
    ] = None,
) -> int:
    """Make synthetic 3D volumes with tumour masks; they show no patient and are not for diagnosis."""
    from ..engine.errors import UsageError
    from ..engine.run.job import Asked
    from ..engine.telemetry import EventLog, Telemetry
    from ._job import run_job

    if log_format not in ("text", "json"):
        raise UsageError(f"--log-format {log_format}: allowed: text, json")
    if add_to is not None and (layout != "nnunet" or shard is not None or samples is not None):
        raise UsageError("--add-to: needs --layout nnunet and a whole run; add shards by merge --add-to")
    if splits is not None and add_to is None:
        raise UsageError("--splits: belongs to --add-to")
    options: dict[str, Any] = {
        "seed": seed, "steps": steps, "sampler": sampler, "eta": eta, "guidance": guidance,
        "layout": layout, "names": names, "grid": grid, "reject": reject, "attempts": attempts,
    }  # fmt: skip
    asked = Asked(
        out, bundle, conditions, count, options, backend, device, precision, batch_size, threads,
        shard, samples, resume, strict, workers, ray=ray,
    )  # fmt: skip
    log = EventLog(log_format)  # type: ignore[arg-type]
    code = run_job(asked, Telemetry(metrics_file=metrics_file), log, quiet=quiet, preview=preview, as_json=as_json)
    if add_to is not None and code == 0:
        from ..engine.run.nnunet_split import add_to_dataset

        added = add_to_dataset(out, add_to, splits)
        log.event("added to data set", samples=added.samples, dataset=str(added.dataset), splits=str(added.splits))
    return code
