"""`sbldm-engine augment`: a real case under new conditions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from ._commands import choices
from ._options import FILES, MODEL, RunFlags, with_run_flags
from ._scans import Cavity, Labels, Map, Orientation

if TYPE_CHECKING:
    from ..engine.bundle.load import Bundle
    from ..engine.sampling.sdedit import SourceCase
    from ..engine.scans.options import ReadOptions


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
    from ._job import run_job

    log = flags.event_log()
    bundle = load_bundle(flags.bundle)
    if identity not in get_args(Identity):
        raise UsageError(f"--identity {identity}: allowed: {', '.join(get_args(Identity))}")
    options = read_options(labels, cavity, orientation, series)
    source, warnings = read_case(case, bundle, strength, options, keep=identity == "keep")
    for warning in warnings:
        log.event(warning, "warning")
    return run_job(flags.request(bundle, source), flags, log)


def read_case(
    folder: Path, bundle: Bundle, strength: float, options: ReadOptions, *, keep: bool = False
) -> tuple[SourceCase, tuple[str, ...]]:
    """The one case of a folder, brought to the bundle's grid, and what should be known of it.

    `keep` takes over the identity of a DICOM study, for the files that are made from it.

    Raises:
        InvalidInputError: the folder holds no case, several, or a broken one.
    """
    import numpy as np

    from ..engine.bundle.manifest import INT16_SCALE
    from ..engine.errors import InvalidInputError, UsageError
    from ..engine.output.scan_voxels import ScanVoxels
    from ..engine.sampling.sdedit import SourceCase
    from ..engine.scans.case import load_case, modalities_to_read
    from ..engine.scans.discover import discover_cases
    from ..engine.scans.prepare import LEVELS, prepare_case
    from ..engine.scans.read import CaseError, read_contents

    if not folder.is_dir():
        raise InvalidInputError(f"{folder}: no such directory; give the folder of one case")
    modalities, grid = bundle.manifest.modalities, bundle.manifest.grid
    found = discover_cases(folder, modalities, options, dicom=True)
    if found.faults:
        raise InvalidInputError(
            "\n".join(f"{folder}: {name}: {text}" for name, faults in found.faults.items() for text in faults)
        )
    if len(found.cases) != 1:
        raise InvalidInputError(f"{folder}: holds {len(found.cases)} cases; give the folder of one")
    files = found.cases[0]
    try:
        contents = read_contents(files, modalities_to_read(files, modalities))
        loaded = load_case(files, modalities, contents, options, grid.fov_mm)
        prepared = prepare_case(loaded, grid)
    except CaseError as error:
        raise InvalidInputError("\n".join(f"{folder}: {text}" for text in error.faults)) from error
    image = np.rint(prepared.image.astype(np.float32) * (INT16_SCALE / LEVELS)).astype(np.int16)
    label = prepared.label if len(bundle.manifest.labels) > 2 else (prepared.label > 0).astype(np.uint8)
    if keep and files.study is None:
        raise UsageError("--identity keep: the case is no DICOM study, it has no identity to keep")
    study = files.study.identity() if keep and files.study is not None else None
    centre = loaded.placement.centre_mm if loaded.placement.is_on_brain else loaded.grid.centre_mm
    voxels = ScanVoxels.of(loaded.raw.label.shape, loaded.raw.affine, np.asarray(centre))
    return SourceCase(image, label, strength, voxels, study), (*found.notes, *loaded.warnings)
