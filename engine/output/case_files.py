"""The files of one case as bytes: what `generate` writes and what `Sample.save` writes are the same."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import Grid
from ..dicom.about import CaseAbout
from ..dicom.stack import Stack
from .layouts import DicomLayout, Layout
from .nifti import nifti_bytes
from .regrid import BRATS_FILES, FileGrid, to_files
from .scan_voxels import ScanVoxels

GridName = Literal["native", "brats"]
GRIDS: tuple[GridName, ...] = get_args(GridName)
FileVoxels = FileGrid | ScanVoxels


def grid_of_files(name: GridName) -> FileGrid | None:
    """The voxels of files; None where they are the model's."""
    return BRATS_FILES if name == "brats" else None


def slices_of(on: FileVoxels | None, grid: Grid) -> int:
    """How many slices the files of a volume have."""
    return (grid if on is None else on).shape[2]


def stack_of(on: FileVoxels | None, grid: Grid) -> Stack:
    """The slices of a volume's files, in DICOM: a scan's own, else as radiologists see them."""
    affine = grid.affine if on is None else np.array(on.affine)
    is_scan = isinstance(on, ScanVoxels)
    return Stack.of((grid if on is None else on).shape, affine, as_radiologists_see_it=not is_scan)


def case_files(
    image: NDArray[np.int16],
    label: NDArray[np.uint8],
    grid: Grid,
    layout: Layout,
    about: CaseAbout,
    on: FileVoxels | None,
    number: int | None = None,
) -> list[tuple[str, bytes]]:
    """Path and bytes of each file of a sample.

    Args:
        image: (modality, x, y, z) RAS+ on `grid`; `label`: (x, y, z), 0..classes-1.
        about: where the sample comes from.
        on: the voxels of the files; None: those of `grid`.
        number: of the sample in the layout, by default its own.
    """
    classes = len(layout.labels)
    if isinstance(on, ScanVoxels):
        image, label = on.bring(image, label, classes, grid)
    elif on is not None:
        image, label = to_files(image, label, classes, grid, on)
    affine = grid.affine if on is None else np.array(on.affine)
    sample = about.sample if number is None else number
    label = layout.file_labels(label)
    if isinstance(layout, DicomLayout):
        stack = stack_of(on, grid)
        return _dicom_files(image, label, stack, layout, about, sample)
    arrays: list[NDArray[np.int16] | NDArray[np.uint8]] = [*image, label]
    return [
        (layout.path(sample, role), nifti_bytes(array, affine, about.description))
        for role, array in zip(layout.roles, arrays, strict=True)
    ]


def _dicom_files(
    image: NDArray[np.int16],
    label: NDArray[np.uint8],
    stack: Stack,
    layout: DicomLayout,
    about: CaseAbout,
    sample: int,
) -> list[tuple[str, bytes]]:
    from ..dicom.case import DicomCase
    from ..dicom.segmentation import segmentation
    from ..dicom.structures import structure_set

    case = DicomCase(about, stack, layout.modalities)
    contents = [data for m, volume in zip(layout.modalities, image, strict=True)
                for data in case.series(m, stack.turned(volume))]  # fmt: skip
    contents.append(segmentation(case, stack.turned(label), layout.labels))
    if layout.rtstruct:
        contents.append(structure_set(case, stack.turned(label), layout.labels))
    return list(zip(layout.paths(sample).values(), contents, strict=True))
