"""`sbldm-engine export`: a training directory into a bundle, a bundle into what Triton or MONAI reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from ._commands import RequireSignature, bundles, choices

if TYPE_CHECKING:
    from ..engine.bundle.load import Bundle
    from ..export.bundle import ExportOptions, Source, Storage
    from ..export.rewrite.precision import Precision


def export(
    checkpoint: Annotated[Path | None, typer.Option(help="Training directory.")] = None,
    out: Annotated[Path | None, typer.Option(help="Bundle directory to make; must not hold files.")] = None,
    precision: Annotated[
        str, typer.Option(help="fp32, or 16 bits for GPUs beside it.", **choices("fp32", "fp16", "bf16"))
    ] = "fp32",
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 21 to 23 (default: 21, with bf16 22).")] = None,
    store: Annotated[
        str, typer.Option(help="Type of the stored weights; fp16 is half the size.", **choices("fp32", "fp16"))
    ] = "fp32",
    identifier: Annotated[str | None, typer.Option("--id", help="Model name (default: preset and hash).")] = None,
    data: Annotated[str, typer.Option(help="What it was trained on, for the model card.")] = "not stated",
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the model card.")] = "not stated",
    source: Annotated[
        str, typer.Option(help="What a mask-first model draws: scans, or phantoms.", **choices("real", "phantom"))
    ] = "real",
    fit_steps: Annotated[
        bool, typer.Option(help="Fit samplings of 1 to 4 steps (masks: 6) to 200; they become the default. Minutes.")
    ] = False,
    force: Annotated[bool, typer.Option(help="Export stages that do not belong together; the card says so.")] = False,
    bundle: Annotated[
        str | None,
        typer.Option(help="With --triton, --monai-bundle: a bundle, by path or name.", autocompletion=bundles),
    ] = None,
    require_signature: RequireSignature = None,
    triton: Annotated[Path | None, typer.Option(help="Write a Triton model repository of the bundle.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="With --triton: largest batch of volumes.")] = 8,
    monai_bundle: Annotated[
        Path | None, typer.Option(help="Write a MONAI bundle, of --bundle or of --checkpoint.")
    ] = None,
) -> None:
    """Export networks to ONNX; no bundle appears unless it equals its networks (exit 3 says where it departs)."""
    from ..engine.bundle.load import load_bundle
    from ..engine.errors import UsageError

    if checkpoint is None and (bundle is None or (triton is None and monai_bundle is None)):
        raise UsageError(
            "give --checkpoint and --out for a bundle, or --bundle and --triton or --monai-bundle to write it for these"
        )
    if checkpoint is not None and (bundle is not None or (out is None and monai_bundle is None)):
        raise UsageError("--checkpoint needs --out, or --monai-bundle, and takes no --bundle")
    if bundle is not None:
        made = load_bundle(bundle, require_signature)
    else:
        options = _options(precision, opset, store, identifier, data, licence, source, force, fit_steps)
        made = _from_checkpoint(cast("Path", checkpoint), out, monai_bundle, options)
    if triton is not None:
        from ..export.triton import write_triton_repository

        written = write_triton_repository(made, triton, batch)
        typer.echo(f"{triton}: Triton models {', '.join(written)}")
    if monai_bundle is not None:
        from ..export.monai_bundle import write_monai_bundle

        if bundle is not None or out is not None:
            write_monai_bundle(made, monai_bundle)
        typer.echo(f"{monai_bundle}: MONAI bundle, see docs/README.md in it")


def _options(
    precision: str,
    opset: int | None,
    store: str,
    identifier: str | None,
    data: str,
    licence: str,
    source: str,
    force: bool,
    fit_steps: bool,
) -> ExportOptions:
    from ..engine.errors import UsageError
    from ..export.bundle import ExportOptions
    from ..export.rewrite.precision import PRECISIONS

    for name, value, allowed in (
        ("precision", precision, PRECISIONS),
        ("store", store, ("fp32", "fp16")),
        ("source", source, ("real", "phantom")),
    ):
        if value not in allowed:
            raise UsageError(f"--{name} {value}: allowed {', '.join(allowed)}")
    return ExportOptions(
        cast("Precision", precision),
        opset,
        cast("Storage", store),
        identifier,
        data=data,
        licence=licence,
        source=cast("Source", source),
        force=force,
        fit_steps=fit_steps,
    )


def _from_checkpoint(checkpoint: Path, out: Path | None, monai_bundle: Path | None, options: ExportOptions) -> Bundle:
    """The bundle in `out`, or where that is not given in the MONAI bundle, and what it holds on stdout."""
    from ..engine.bundle.report import report_text
    from ..export.bundle import export_bundle
    from ..export.monai_bundle import export_monai_bundle
    from ..export.staging import require_free

    def tell(message: str) -> None:
        typer.echo(message, err=True)

    if monai_bundle is not None:
        require_free(monai_bundle)
    if out is not None:
        made = export_bundle(checkpoint, out, options, tell)
    else:
        made = export_monai_bundle(checkpoint, cast("Path", monai_bundle), options, tell)
    typer.echo(report_text(made))
    return made
