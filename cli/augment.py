"""`sbldm-engine augment`: a real case under new conditions, or a scan with a lesion put in or taken out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from ._commands import choices
from ._options import FILES, MODEL, RunFlags, with_run_flags
from ._scans import Cavity, Labels, Map, Orientation

if TYPE_CHECKING:
    from ..engine.bundle.load import Bundle
    from ..engine.run.request import GenerateRequest
    from ..engine.scans.insert_scan import InsertWishes
    from ..engine.scans.options import ReadOptions
    from ..engine.telemetry import EventLog

LESION = "Lesions put into the scan, or taken out"


@with_run_flags
def augment(
    flags: RunFlags,
    case: Annotated[Path, typer.Argument(help="Folder of one case, mask included: BraTS names, or DICOM.")],
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            help="0 returns the reconstruction, 1 keeps nothing of the case, by its share of --steps. Default: 0.5.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    insert: Annotated[
        bool,
        typer.Option(
            "--insert",
            help="Put the tumours of --conditions or --masks into the scan, healthy or not; the rest of it stays.",
            rich_help_panel=LESION,
        ),
    ] = False,
    remove: Annotated[
        bool,
        typer.Option("--remove", help="Fill the scan's own lesion with healthy tissue first.", rich_help_panel=LESION),
    ] = False,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks", help="With --insert: folder of label files on the scan's voxels.", rich_help_panel=LESION
        ),
    ] = None,
    volumes: Annotated[
        str | None,
        typer.Option(
            "--volumes",
            help="With --insert: a series of each tumour; each mask holds the last, all have one noise.",
            metavar="ML,ML,...",
            rich_help_panel=LESION,
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            help="With --insert, --remove: mm around the lesion, beyond which voxels keep every bit. Default: 12.",
            metavar="MM",
            rich_help_panel=LESION,
        ),
    ] = None,
    mass_effect: Annotated[
        bool,
        typer.Option(
            "--mass-effect", help="With --insert: push tissue within the margin aside.", rich_help_panel=LESION
        ),
    ] = False,
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
    """Encode a real case, noise it up to --strength, sample back; or change its lesion alone. Protect it so."""
    from ..engine.bundle.load import load_bundle
    from ..engine.errors import UsageError
    from ..engine.sampling.sdedit import Identity
    from ..engine.scans.options import read_options
    from ..engine.scans.source_case import read_case
    from ._job import run_job

    log = flags.event_log()
    if identity not in get_args(Identity):
        raise UsageError(f"--identity {identity}: allowed: {', '.join(get_args(Identity))}")
    wishes = _wishes(flags, insert, remove, masks, volumes, margin, mass_effect)
    bundle = load_bundle(flags.bundle, flags.require_signature)
    options = read_options(labels, cavity, orientation, series)
    if wishes is not None:
        if strength is not None or series is not None or identity == "keep":
            raise UsageError("--strength, --map and --identity: go without --insert and --remove")
        return run_job(_lesions(flags, case, bundle, wishes, options, log), flags, log)
    source, warnings = read_case(case, bundle, 0.5 if strength is None else strength, options, keep=identity == "keep")
    for warning in warnings:
        log.event(warning, "warning")
    return run_job(flags.request(bundle, source), flags, log)


def _wishes(
    flags: RunFlags,
    insert: bool,
    remove: bool,
    masks: Path | None,
    volumes: str | None,
    margin: float | None,
    mass_effect: bool,
) -> InsertWishes | None:
    """What is to be done with the scan's lesion; None for a case under new conditions."""
    from ..engine.errors import UsageError
    from ..engine.sampling.insert_case import DEFAULT_MARGIN_MM
    from ..engine.scans.insert_scan import InsertWishes

    if not insert and not remove:
        if masks is not None or volumes is not None or margin is not None or mass_effect:
            raise UsageError("--masks, --volumes, --margin and --mass-effect: belong to --insert or --remove")
        return None
    try:
        asked = tuple(float(part) for part in volumes.split(",")) if volumes is not None else ()
    except ValueError:
        raise UsageError(f"--volumes {volumes}: must be numbers of ml, such as 5,10,20,40") from None
    return InsertWishes(
        insert, remove, flags.conditions, masks, asked, DEFAULT_MARGIN_MM if margin is None else margin, mass_effect,
        flags.count, flags.seed,
    )  # fmt: skip


def _lesions(
    flags: RunFlags, case: Path, bundle: Bundle, wishes: InsertWishes, options: ReadOptions, log: EventLog
) -> GenerateRequest:
    from ..engine.errors import UsageError
    from ..engine.scans.insert_scan import plan_insert
    from ..engine.scans.scan import open_scan

    if flags.grid not in (None, "source") or flags.layout == "dicom":
        raise UsageError("--grid, --layout: --insert and --remove keep the scan's voxels (source), in NIfTI files")
    scan = open_scan(case, bundle, options)
    plan = plan_insert(scan, bundle, wishes, options)
    for warning in scan.warnings:
        log.event(warning, "warning")
    return replace(flags, grid="source", count=plan.count, conditions=plan.conditions).request(bundle, plan.case)
