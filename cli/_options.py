"""The options of a run, once: every command that makes samples (`generate`, `augment`) takes them all.

A field named as one of `GenerateRequest` is handed to it as it is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ._commands import PRECISIONS, bundles, choices, signature_option
from ._nibabel import settle_nibabel

if TYPE_CHECKING:
    from ..engine.bundle.load import Bundle
    from ..engine.run.request import GenerateRequest, Source
    from ..engine.telemetry import EventLog

RUN, MODEL, FILES, SHOW = "The run", "Sampling", "Files", "What is shown"


def _run(name: str, text: str, metavar: str | None = None, **more: Any) -> Any:
    return typer.Option(name, help=text, metavar=metavar, rich_help_panel=RUN, **more)


def _model(name: str, text: str, **more: Any) -> Any:
    return typer.Option(name, help=text, rich_help_panel=MODEL, **more)


def _files(name: str, text: str, **more: Any) -> Any:
    return typer.Option(name, help=text, rich_help_panel=FILES, **more)


def _show(name: str, text: str, **more: Any) -> Any:
    return typer.Option(name, help=text, rich_help_panel=SHOW, **more)


@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """What was typed, in the order of the help; ranges are `GenerateRequest`'s."""

    out: Annotated[Path, _run("--out", "New or empty directory.")]
    count: Annotated[int | None, _run("--count", "Samples to make; default: one a row of --conditions.")] = None
    conditions: Annotated[Path | None, _run("--conditions", "CSV of wanted tumours; what it leaves open is drawn.")] = (
        None
    )
    bundle: Annotated[
        str, _run("--bundle", "Name of a shipped or pulled bundle, or a path.", autocompletion=bundles)
    ] = "phantom"
    require_signature: Annotated[Path | None, signature_option(RUN)] = None
    seed: Annotated[int, _run("--seed", "Seed of the run, 0 to 2^64 - 1.")] = 0
    resume: Annotated[bool, _run("--resume", "Go on with the run in --out.")] = False
    shard: Annotated[str | None, _run("--shard", "Make only part I (from 0) of N.", "I/N")] = None
    samples: Annotated[str | None, _run("--samples", "Make only these samples of the run.", "3,7-9")] = None
    workers: Annotated[int, _run("--workers", "Processes on this machine.")] = 1
    ray: Annotated[
        str | None,
        _run("--ray", "Run on a Ray cluster: host:port, the one that runs here, or local to start one.", "[ADDRESS]"),
    ] = None
    sample_timeout: Annotated[
        float | None, _run("--sample-timeout", "Seconds that a sample may take, tried twice; default: 3600.", "S")
    ] = None
    verify_files: Annotated[bool, _run("--verify-files", "With --resume: hash all files of a complete run.")] = False
    strict: Annotated[bool, _run("--strict", "Refuse tumours far from the training cohort.")] = False
    steps: Annotated[int | None, _model("--steps", "Denoising steps; default: the bundle's.")] = None
    sampler: Annotated[
        str | None, _model("--sampler", "Algorithm; default: the bundle's.", **choices("ddim", "dpmpp-2m", "fitted"))
    ] = None
    eta: Annotated[float | None, _model("--eta", "Noise of DDIM steps, 0 to 1; default: the bundle's.")] = None
    guidance: Annotated[
        float | None, _model("--guidance", "Classifier-free guidance, 1 is none; default: the bundle's.")
    ] = None
    batch_size: Annotated[
        str | None,
        _model("--batch-size", "Samples a batch; default: 1 on a CPU, by memory on a GPU.", metavar="N|auto"),
    ] = None
    backend: Annotated[
        str,
        _model("--backend", "Who computes the networks.", **choices("auto", "onnxruntime", "openvino", "tensorrt")),
    ] = "auto"
    device: Annotated[
        str, _model("--device", "Where; cuda:1 is the second GPU.", **choices("auto", "cpu", "cuda", "cuda:I"))
    ] = "auto"
    precision: Annotated[
        str, _model("--precision", "Of those that backend and bundle have.", **choices(*PRECISIONS))
    ] = "auto"
    threads: Annotated[int | None, _model("--threads", "CPU threads a process; default: all.")] = None
    reject: Annotated[
        float | None,
        _model("--reject", "Redraw tumours that miss the request by more than this share.", metavar="TOL"),
    ] = None
    attempts: Annotated[int, _model("--attempts", "Redraws at most; with --reject the best is kept then.")] = 4
    layout: Annotated[
        str, _files("--layout", "Folders, file names and labels.", **choices("brats", "nnunet", "bids", "dicom"))
    ] = "brats"
    names: Annotated[str, _files("--names", "BraTS file names of that year.", **choices("2021", "2023"))] = "2021"
    name_by: Annotated[
        str,
        _files("--name-by", "Cases are called by number, or by the id of their row.", **choices("sample", "id")),
    ] = "sample"
    grid: Annotated[
        str | None,
        _files(
            "--grid",
            "The model's (default), 240x240x155 voxels of 1 mm, or of augment's case (source).",
            **choices("native", "brats", "source"),
        ),
    ] = None
    rtstruct: Annotated[bool, _files("--rtstruct", "With --layout dicom: the mask as contours (RTSTRUCT), too.")] = (
        False
    )
    preview: Annotated[bool, _files("--preview", "Write a contact sheet, preview.png.")] = False
    report: Annotated[bool, _files("--report", "Write report.html: volumes in 3D, plots, faults, in one file.")] = False
    as_json: Annotated[bool, _show("--json", "Print the result as one JSON object.")] = False
    quiet: Annotated[bool, _show("--quiet", "No progress; warnings and errors only.")] = False
    log_format: Annotated[
        str, _show("--log-format", "What stderr gets; json: one object a line.", **choices("text", "json"))
    ] = "text"
    metrics_file: Annotated[Path | None, _show("--metrics-file", "Keep figures here in Prometheus text format.")] = None

    def event_log(self) -> EventLog:
        """Where log lines go; UsageError for an unknown format."""
        from ..engine.errors import UsageError
        from ..engine.telemetry import EventLog

        if self.log_format not in ("text", "json"):
            raise UsageError(f"--log-format {self.log_format}: allowed: text, json")
        return EventLog(self.log_format)  # type: ignore[arg-type]

    def request(self, bundle: Bundle, source: Source | None = None) -> GenerateRequest:
        """The request that was typed.

        Raises:
            UsageError, InvalidInputError: see `GenerateRequest`.
        """
        from ..engine.run.request import GenerateRequest

        names = {f.name for f in fields(GenerateRequest)} & vars(self).keys()
        typed = {name: value for name, value in vars(self).items() if name in names and value is not None}
        if self.batch_size is not None and self.batch_size.isascii() and self.batch_size.isdigit():
            typed["batch_size"] = int(self.batch_size)
        return GenerateRequest(**{**typed, "bundle": bundle, "source": source})


def with_run_flags(command: Callable[..., int]) -> Callable[..., int]:
    """`command(flags, ...)` as a Typer command: its own arguments, the options of `RunFlags`, its own options."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    hints = get_type_hints(RunFlags, include_extras=True)
    shared = [
        inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[f.name],
            default=inspect.Parameter.empty if f.default is MISSING else f.default,
        )
        for f in fields(RunFlags)
    ]

    def typed(**given: Any) -> int:
        settle_nibabel()
        flags = RunFlags(**{f.name: given.pop(f.name) for f in fields(RunFlags)})
        return command(flags, **given)

    own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    required = [p for p in own if p.default is inspect.Parameter.empty]
    parameters = [*required, *shared, *(p for p in own if p not in required)]
    typed.__name__, typed.__doc__ = command.__name__, command.__doc__
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    typed.__annotations__ = {p.name: p.annotation for p in parameters}
    return typed
