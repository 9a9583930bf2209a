"""The files of one case as bytes: what `generate` writes and what `Sample.save` writes are the same."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Grid
from .layouts import Layout
from .nifti import SYNTHETIC, nifti_bytes
from .regrid import BRATS_FILES, FileGrid, to_files

GridName = Literal["native", "brats"]
GRIDS: tuple[GridName, ...] = get_args(GridName)


def grid_of_files(name: GridName) -> FileGrid | None:
    """The voxels of files; None where they are the model's."""
    return BRATS_FILES if name == "brats" else None


def description(version: str, seed: int, sample: int, origin: str) -> str:
    """`descrip` of a sample's NIfTI files; `origin`: what it was made from, "" for noise alone."""
    return f"{SYNTHETIC} {version} {f'{origin}, ' if origin else ''}seed {seed} sample {sample}"


def case_files(
    image: NDArray[np.int16],
    label: NDArray[np.uint8],
    grid: Grid,
    layout: Layout,
    sample: int,
    on: FileGrid | None,
    text: str,
) -> list[tuple[str, bytes]]:
    """Path and bytes of each file of a sample.

    Args:
        image: (modality, x, y, z) RAS+ on `grid`; `label`: (x, y, z), 0..classes-1.
        on: the voxels of the files; None: those of `grid`.
        text: `descrip` of the files.
    """
    affine = grid.affine
    if on is not None:
        image, label = to_files(image, label, len(layout.labels), grid, on)
        affine = np.array(on.affine)
    arrays: list[NDArray[np.int16] | NDArray[np.uint8]] = [*image, layout.file_labels(label)]
    return [
        (layout.path(sample, role), nifti_bytes(array, affine, text))
        for role, array in zip(layout.roles, arrays, strict=True)
    ]
