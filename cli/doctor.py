"""`sbldm-engine doctor`: what this machine can run."""

from __future__ import annotations

from typing import Annotated

import typer

from ._commands import RequireSignature, bundles


def doctor(
    bundle: Annotated[str, typer.Option(help="Shipped bundle's name, or a path.", autocompletion=bundles)] = "phantom",
    require_signature: RequireSignature = None,
    json_output: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object on stdout, fit for a support request: no names, no paths of yours."
        ),
    ] = False,
) -> None:
    """Say what this machine can run, and why."""
    import json

    from ..engine.bundle.load import load_bundle
    from ..engine.doctor import diagnose, support_bundle

    diagnosis = diagnose(load_bundle(bundle, require_signature))
    if json_output:
        typer.echo(json.dumps(support_bundle(diagnosis)))
    else:
        typer.echo(f"Python {diagnosis.python} on {diagnosis.system}")
        limit = diagnosis.cpu_limits[0]
        typer.echo(f"CPU    {diagnosis.cpu}, {diagnosis.threads} threads: {limit.rule}")
        for other in diagnosis.cpu_limits[1:]:
            typer.echo(f"       {other.threads} by the {other.rule}")
        if not diagnosis.cache:
            typer.echo("cache  none that can be written: choices of `bench --select` and engines are not kept")
        for warning in diagnosis.warnings:
            typer.echo(f"note   {warning}")
        for finding in diagnosis.findings:
            mark = "yes" if finding.usable else "no "
            typer.echo(f"{mark}    {finding.backend} on {finding.device}: {finding.detail}")
        if not diagnosis.gpu[0].there:
            typer.echo(f"GPU    no NVIDIA GPU can be used: {diagnosis.gpu[0].detail}")
        else:
            for part in diagnosis.gpu:
                typer.echo(f"GPU    {'has' if part.there else 'no '} {part.name}: {part.detail}")
        typer.echo(f"auto   {diagnosis.choice}")
    if not any(finding.usable for finding in diagnosis.findings):
        raise typer.Exit(4)
