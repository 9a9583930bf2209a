"""`sbldm-engine generate`: conditions in, synthetic volumes and masks out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import FILES, RunFlags, with_run_flags


@with_run_flags
def generate(
    flags: RunFlags,
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
    from ._job import run_job

    log = flags.event_log()
    if add_to is not None and (flags.layout != "nnunet" or flags.shard is not None or flags.samples is not None):
        raise UsageError("--add-to: needs --layout nnunet and a whole run; add shards by merge --add-to")
    if (splits is not None or link) and add_to is None:
        raise UsageError("--splits and --link: belong to --add-to")
    code = run_job(flags.request(load_bundle(flags.bundle)), flags, log)
    if add_to is not None and code == 0:
        from ..engine.run.nnunet_split import add_to_dataset

        added = add_to_dataset(flags.out, add_to, splits, link=link)
        log.event("added to data set", samples=added.samples, dataset=str(added.dataset), splits=str(added.splits))
    return code
