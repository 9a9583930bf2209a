"""`sbldm-engine augment`: a real case under new conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from ._commands import choices
from ._options import FILES, MODEL, RunFlags, with_run_flags
from ._scans import Cavity, Labels, Map, Orientation


@with_run_flags
def augment(
    flags: RunFlags,
    case: Annotated[Path, typer.Argument(help="Folder of one case, mask included: BraTS names, or DICOM.")],
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
    series: Map = None,
    identity: Annotated[
        str,
        typer.Option(
            "--identity",
            help="DICOM files carry the source's patient and study (keep), or a synthetic one's.",
            rich_help_panel=FILES,
            **choices("keep", "replace"),
        ),
    ] = "replace",
) -> int:
    """Encode a real case, noise it up to --strength, sample back. Derived from a patient: protect it as such."""
    from ..engine.bundle.load import load_bundle
    from ..engine.errors import UsageError
    from ..engine.sampling.sdedit import Identity
    from ..engine.scans.options import read_options
    from ..engine.scans.source_case import read_case
    from ._job import run_job

    log = flags.event_log()
    bundle = load_bundle(flags.bundle, flags.require_signature)
    if identity not in get_args(Identity):
        raise UsageError(f"--identity {identity}: allowed: {', '.join(get_args(Identity))}")
    options = read_options(labels, cavity, orientation, series)
    source, warnings = read_case(case, bundle, strength, options, keep=identity == "keep")
    for warning in warnings:
        log.event(warning, "warning")
    return run_job(flags.request(bundle, source), flags, log)
