"""`sbldm-engine inspect`: what a bundle holds."""

from __future__ import annotations

from typing import Annotated

import typer

from ._commands import RequireSignature, bundles


def inspect(
    bundle: Annotated[str, typer.Argument(help="Bundle: a path or a shipped name.", autocompletion=bundles)],
    require_signature: RequireSignature = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Verify a bundle and show its components, conditions with their ranges, provenance, parity and evaluation."""
    import json

    from ..engine.bundle.load import load_bundle
    from ..engine.bundle.report import report_data, report_text
    from ..engine.screen import shown

    loaded = load_bundle(bundle, require_signature)
    typer.echo(json.dumps(report_data(loaded), indent=1) if as_json else shown(report_text(loaded)))
