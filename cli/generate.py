"""`sbldm-engine generate`: conditions in, synthetic volumes and masks out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._options import FILES, RUN, RunFlags, with_run_flags
from ._scans import Cavity, Labels, Orientation

if TYPE_CHECKING:
    from ..engine.run.job import Job
    from ..engine.run.request import GenerateRequest


@with_run_flags
def generate(
    flags: RunFlags,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            help="Folder of label files: images are made around them, one a mask or --count in turn; "
            "--conditions moves and scales them.",
            rich_help_panel=RUN,
        ),
    ] = None,
    exclude_copies: Annotated[
        Path | None,
        typer.Option(
            "--exclude-copies",
            help="Folder of cases, such as the training cases: samples that are copies of one are drawn again.",
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
            help="With --layout nnunet: raw data set that gets the cases for training, on its voxels without --grid.",
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
    from dataclasses import replace

    from ..engine.bundle.load import load_bundle
    from ..engine.conditions.table import read_table
    from ..engine.errors import UsageError
    from ..engine.sampling.given_masks import require_mask_first
    from ..engine.scans.masks import edited_masks, read_masks
    from ..engine.scans.options import read_options
    from ._job import run_job

    log = flags.event_log()
    if add_to is not None and (flags.layout != "nnunet" or flags.shard is not None or flags.samples is not None):
        raise UsageError("--add-to: needs --layout nnunet and a whole run; add shards by merge --add-to")
    if (splits is not None or link) and add_to is None:
        raise UsageError("--splits and --link: belong to --add-to")
    bundle = load_bundle(flags.bundle, flags.require_signature)
    source, options = None, read_options(labels, cavity, orientation)
    if masks is not None:
        require_mask_first(bundle)
        columns = [column.name for column in bundle.manifest.condition_columns]
        source, warnings = read_masks(masks, columns, bundle.manifest.grid, options)
        for warning in warnings:
            log.event(warning, "warning")
        if flags.conditions is not None:
            grid = bundle.manifest.grid
            source = edited_masks(source, read_table(flags.conditions, columns, grid.fov_mm), grid)
            flags = replace(flags, conditions=None)
    request = flags.request(bundle, source)
    if exclude_copies is not None:
        from ..engine.scans.references import read_references

        cases = read_references(exclude_copies, bundle.manifest.modalities, bundle.manifest.grid, options)
        request = replace(request, exclude_copies=cases)
    if add_to is None:
        return run_job(request, flags, log)
    from ..engine.run.nnunet_split import add_to_dataset

    request, check = _fitted(request, add_to, splits, keep_grid=flags.grid is not None)
    code = run_job(request, flags, log, check)
    if code == 0:
        added = add_to_dataset(flags.out, add_to, splits, link=link)
        log.event("added to data set", samples=added.samples, dataset=str(added.dataset), splits=str(added.splits))
        for note in added.notes():
            log.event(note, "warning")
    return code


def _fitted(
    request: GenerateRequest, dataset: Path, splits: Path | None, *, keep_grid: bool
) -> tuple[GenerateRequest, Callable[[Job], None]]:
    """The request on the voxels of the data set, unless `keep_grid`; and what is still to be checked of the job."""
    from dataclasses import replace

    from ..engine.output.layouts import make_layout
    from ..engine.output.regrid import FileGrid
    from ..engine.run.nnunet_split import check_addition
    from ..engine.run.nnunet_target import check_free, voxels_of

    manifest = request.bundle.manifest
    target = check_addition(dataset, splits, make_layout("nnunet", manifest.modalities, manifest.labels))

    def check(job: Job) -> None:
        if not job.is_resumed:
            check_free(target, job.run.layout(), job.run.options.count)

    if keep_grid:
        return request, check
    grid, files = manifest.grid, voxels_of(target, manifest.grid)
    same = files == FileGrid.of(grid.shape, grid.affine)
    return (request if same else replace(request, dataset_grid=files)), check
