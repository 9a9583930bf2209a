"""`sbldm-engine export`: a training directory into a bundle, or a bundle into a Triton model repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._commands import bundles, choices


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
    source: Annotated[str, typer.Option(help="What a mask-first model draws: real scans or phantom.")] = "real",
    force: Annotated[bool, typer.Option(help="Export stages that do not belong together; the card says so.")] = False,
    bundle: Annotated[
        str | None, typer.Option(help="With --triton: its bundle, a path or a name.", autocompletion=bundles)
    ] = None,
    triton: Annotated[Path | None, typer.Option(help="Write a Triton model repository of the bundle.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="With --triton: largest batch of volumes.")] = 8,
) -> None:
    """Export networks to ONNX; no bundle appears unless it equals its networks (exit 3 says where it departs)."""
    from typing import cast

    from ..engine.bundle.load import load_bundle
    from ..engine.errors import UsageError

    if checkpoint is None and (bundle is None or triton is None):
        raise UsageError("give --checkpoint and --out for a bundle, or --bundle and --triton for a Triton repository")
    if checkpoint is not None and (out is None or bundle is not None):
        raise UsageError("--checkpoint needs --out and takes no --bundle")
    made = load_bundle(bundle) if bundle is not None else None
    if checkpoint is not None and out is not None:
        from ..engine.bundle.report import report_text
        from ..export.bundle import ExportOptions, Source, Storage, export_bundle
        from ..export.rewrite.precision import PRECISIONS, Precision

        if precision not in PRECISIONS:
            raise UsageError(f"--precision {precision}: allowed {', '.join(PRECISIONS)}")
        if store not in ("fp32", "fp16"):
            raise UsageError(f"--store {store}: allowed fp32, fp16")
        if source not in ("real", "phantom"):
            raise UsageError(f"--source {source}: allowed real, phantom")
        options = ExportOptions(
            cast("Precision", precision),
            opset,
            cast("Storage", store),
            identifier,
            data=data,
            licence=licence,
            source=cast("Source", source),
            force=force,
        )
        made = export_bundle(checkpoint, out, options, lambda message: typer.echo(message, err=True))
        typer.echo(report_text(made))
    if triton is not None and made is not None:
        from ..export.triton import write_triton_repository

        written = write_triton_repository(made, triton, batch)
        typer.echo(f"{triton}: Triton models {', '.join(written)}")
