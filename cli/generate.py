"""`sbldm-engine generate`: conditions in, synthetic volumes and masks out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import FILES, RUN, RunFlags, with_run_flags
from ._scans import Cavity, Labels, Orientation


@with_run_flags
def generate(
    flags: RunFlags,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            help="Folder of label files: images are made around them, one a mask or --count in turn.",
            rich_help_panel=RUN,
        ),
    ] = None,
    labels: Labels = None,
    cavity: Cavity = "refuse",
    orientation: Orientation = None,
    add_to: Annotated[
        Path | None,
        typer.Option(
            "--add-to",
            help="With --layout nnunet: raw data set that gets the cases as training cases.",
            rich_help_panel=FILES,
        ),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option("--splits", help="Its splits_final.json, if not in $nnUNet_preprocessed.", rich_help_panel=FILES),
    ] = None,
    link: Annotated[
        bool,
        typer.Option(
            "--link",
            help="With --add-to: hard links, not copies; a later change of one changes both.",
            rich_help_panel=FILES,
        ),
    ] = False,
) -> int:
    """Make synthetic 3D volumes with tumour masks; they show no patient and are not for diagnosis."""
    from ..engine.bundle.load import load_bundle
    from ..engine.errors import UsageError
    from ..engine.sampling.given_masks import require_mask_first
    from ..engine.scans.masks import read_masks
    from ..engine.scans.options import read_options
    from ._job import run_job

    log = flags.event_log()
    if add_to is not None and (flags.layout != "nnunet" or flags.shard is not None or flags.samples is not None):
        raise UsageError("--add-to: needs --layout nnunet and a whole run; add shards by merge --add-to")
    if (splits is not None or link) and add_to is None:
        raise UsageError("--splits and --link: belong to --add-to")
    bundle = load_bundle(flags.bundle)
    source = None
    if masks is not None:
        require_mask_first(bundle)
        columns = [column.name for column in bundle.manifest.condition_columns]
        options = read_options(labels, cavity, orientation)
        source, warnings = read_masks(masks, columns, bundle.manifest.grid, options)
        for warning in warnings:
            log.event(warning, "warning")
    code = run_job(flags.request(bundle, source), flags, log)
    if add_to is not None and code == 0:
        from ..engine.run.nnunet_split import add_to_dataset

        added = add_to_dataset(flags.out, add_to, splits, link=link)
        log.event("added to data set", samples=added.samples, dataset=str(added.dataset), splits=str(added.splits))
    return code
