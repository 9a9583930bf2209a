"""`sbldm-engine augment`: a real case under new conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import MODEL, RunFlags, with_run_flags
from ._scans import Cavity, Labels, Orientation


@with_run_flags
def augment(
    flags: RunFlags,
    case: Annotated[Path, typer.Argument(help="Folder of one case: its modalities and segmentation, BraTS names.")],
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            help="0 returns the reconstruction, 1 keeps nothing of the case; its share of --steps is taken.",
            rich_help_panel=MODEL,
        ),
    ] = 0.5,
    labels: Labels = None,
    cavity: Cavity = "refuse",
    orientation: Orientation = None,
) -> int:
    """Encode a real case, noise it up to --strength, sample back. Derived from a patient: protect it as such."""
    from ..engine.bundle.load import load_bundle
    from ..engine.scans.options import read_options
    from ..engine.scans.source_case import read_case
    from ._job import run_job

    log = flags.event_log()
    bundle = load_bundle(flags.bundle, flags.require_signature)
    source, warnings = read_case(case, bundle, strength, read_options(labels, cavity, orientation))
    for warning in warnings:
        log.event(warning, "warning")
    return run_job(flags.request(bundle, source), flags, log)
