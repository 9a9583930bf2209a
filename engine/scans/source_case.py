"""The one real case that `augment` starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..bundle.load import Bundle
from ..bundle.manifest import INT16_SCALE
from ..errors import UsageError
from ..output.scan_voxels import ScanVoxels
from ..sampling.sdedit import SourceCase
from .case import load_case, modalities_to_read
from .one_case import faults_of, one_case
from .options import ReadOptions
from .prepare import LEVELS, prepare_case
from .read import read_contents


def read_case(
    folder: Path, bundle: Bundle, strength: float, options: ReadOptions, *, keep: bool = False
) -> tuple[SourceCase, tuple[str, ...]]:
    """The one case of a folder, brought to the bundle's grid, and what should be known of it.

    `keep` takes over the identity of a DICOM study, for the files that are made from it.

    Raises:
        InvalidInputError: the folder holds no case, several, or a broken one.
        UsageError: `keep`, and the case is no DICOM study.
    """
    modalities, grid = bundle.manifest.modalities, bundle.manifest.grid
    files, notes = one_case(folder, modalities, options, dicom=True)
    with faults_of(folder):
        contents = read_contents(files, modalities_to_read(files, modalities))
        loaded = load_case(files, modalities, contents, options, grid.fov_mm)
        prepared = prepare_case(loaded, grid)
    image = np.rint(prepared.image.astype(np.float32) * (INT16_SCALE / LEVELS)).astype(np.int16)
    label = prepared.label if len(bundle.manifest.labels) > 2 else (prepared.label > 0).astype(np.uint8)
    if keep and files.study is None:
        raise UsageError("--identity keep: the case is no DICOM study, it has no identity to keep")
    study = files.study.identity() if keep and files.study is not None else None
    centre = loaded.placement.centre_mm if loaded.placement.is_on_brain else loaded.grid.centre_mm
    voxels = ScanVoxels.of(loaded.raw.label.shape, loaded.raw.affine, np.asarray(centre))
    return SourceCase(image, label, strength, voxels, study), (*notes, *loaded.warnings)
