"""The masks of a run measured again, against what its ledger says of them."""

from __future__ import annotations

import gzip
import io
import math
import zlib

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ..files import Folder
from ..output.layouts import SEGMENTATION
from ..output.measure import measure_tumour
from .description import RunDescription
from .ledger import QUALITY, SampleRecord

_RELATIVE, _ABSOLUTE = 1e-6, 1e-9  # agreement of two measurements of the same voxels
_HEADER_BYTES = 4096  # more than any header of ours
_SUFFIX = ".nii.gz"


class UnreadableError(ValueError):
    """A file that no run of this description can have written."""


def measurement_faults(folder: Folder, run: RunDescription, record: SampleRecord) -> list[str]:
    """Where the files of an intact record do not show what is recorded of them; one line each.

    On the model's grid every measurement is made again. On another grid the mask was measured before it was brought
    there, so that only its shape, its labels and whether it holds a tumour are compared.
    """
    layout = run.layout()
    paths = layout.paths(record.sample)
    if not paths[SEGMENTATION].endswith(_SUFFIX):
        return []
    files = run.file_grid()
    native, shape = files is None, (run.bundle.grid if files is None else files).shape
    try:
        mask = read_voxels(folder, paths[SEGMENTATION], shape, np.dtype(np.uint8))
        if foreign := sorted(set(np.unique(mask).tolist()) - set(layout.label_values)):
            return [f"{paths[SEGMENTATION]}: holds label {foreign[0]}, the run has {list(layout.label_values)}"]
        if not native:
            return _presence(paths[SEGMENTATION], mask, record)
        brain = np.zeros(shape, bool)
        for modality in layout.modalities:
            brain |= read_voxels(folder, paths[modality], shape, np.dtype(np.int16)) > 0
    except (UnreadableError, OSError) as error:
        return [str(error)]
    measured = measure_tumour(layout.array_labels(mask), run.bundle.grid.spacing_mm, brain)
    values = measured.as_row((*run.bundle.columns, *QUALITY))
    return [
        f"{paths[SEGMENTATION]}: {name} measures {value:g}, recorded is {record.measured[name]}"
        for name, value in values.items()
        if not _agree(value, record.measured[name])
    ]


def _presence(path: str, mask: NDArray[np.uint8], record: SampleRecord) -> list[str]:
    recorded = (record.measured.get("volume_ml") or 0) > 0
    if mask.any() and not recorded:
        return [f"{path}: holds a tumour, recorded is none"]
    return []


def _agree(value: float, recorded: float | None) -> bool:
    if recorded is None:
        return math.isnan(value)
    return math.isclose(value, recorded, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)


def read_voxels(folder: Folder, path: str, shape: tuple[int, ...], kind: np.dtype) -> NDArray:
    """The voxels (x, y, z) of a file of ours; no more is decompressed than that shape needs.

    Raises:
        UnreadableError: it is no such file.
    """
    most = int(np.prod(shape)) * kind.itemsize + _HEADER_BYTES
    try:
        with folder.reading(path) as handle, gzip.GzipFile(fileobj=handle) as stream:
            data = stream.read(most + 1)
        if len(data) > most:
            raise UnreadableError(f"{path}: holds more than {shape} voxels")
        image = nib.Nifti1Image.from_stream(io.BytesIO(data))
        if image.shape != shape or image.get_data_dtype() != kind:
            held = f"{image.shape} voxels of {image.get_data_dtype()}"
            raise UnreadableError(f"{path}: holds {held}, not {shape} of {kind}")
        return np.asarray(image.dataobj)
    except (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, ValueError) as error:
        raise UnreadableError(f"{path}: not a readable file of this run ({error})") from error
