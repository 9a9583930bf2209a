"""The volumes of a run's samples, read back from the files of any layout."""

from __future__ import annotations

import gzip
import io
import zlib
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from ..dicom.extra import require_dicom
from ..errors import InvalidInputError
from ..folder import Folder
from ..output.layouts import SEGMENTATION, DicomLayout
from ..output.scan_voxels import ScanVoxels
from ..scans.header import MAX_OFFSET
from .description import InsertDigest, RunDescription

_HEADER_BYTES = 4096  # more than any NIfTI header of ours
_DICOM_BYTES = 2**20  # more than what stands before the pixels of a DICOM file of ours, and of each of its frames


_NIFTI_2 = (540).to_bytes(4, "little")  # how such a header begins


class UnreadableError(ValueError):
    """A file that no run of this description can have written."""


@dataclass(frozen=True)
class CaseOnDisk:
    """A sample as its files hold it."""

    image: NDArray[np.float32]  # (modality, x, y, z) RAS+
    label: NDArray[np.uint8]  # (x, y, z), classes
    affine: NDArray[np.float64]


def read_case(folder: Folder, run: RunDescription, sample: int) -> CaseOnDisk:
    """A sample in RAS+; raises as `read_volume`."""
    layout, files = run.layout(), run.file_grid()
    shape = (run.bundle.grid if files is None else files).shape
    affine = np.array(run.bundle.grid.affine if files is None else files.affine)
    label = read_volume(folder, run, sample, SEGMENTATION)
    images = [read_volume(folder, run, sample, modality) for modality in layout.modalities]
    turn = io_orientation(affine)  # to RAS
    image = np.stack([apply_orientation(image, turn) for image in images]).astype(np.float32)
    label = apply_orientation(layout.array_labels(label), turn)
    turned = affine @ inv_ornt_aff(turn, shape)
    return CaseOnDisk(image, label, _straight(turned, label.shape) if isinstance(files, ScanVoxels) else turned)


def _straight(affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The affine of the same voxels along the patient's axes, about the same middle: an oblique scan as it is shown."""
    middle = (np.array(shape) - 1) / 2
    straight = np.diag([*np.linalg.norm(affine[:3, :3], axis=0), 1.0])
    straight[:3, 3] = affine[:3, :3] @ middle + affine[:3, 3] - straight[:3, :3] @ middle
    return straight


def read_volume(folder: Folder, run: RunDescription, sample: int, role: str) -> NDArray:
    """A modality (int16) or the labels (uint8) of a sample, in the voxel order of the run's files.

    Raises:
        UnreadableError: its files are not those of this run.
        OSError: they cannot be read.
    """
    layout, files = run.layout(), run.file_grid()
    shape = (run.bundle.grid if files is None else files).shape
    if isinstance(layout, DicomLayout):
        return _read_dicom(folder, run, layout, sample, role)
    kind, head = np.dtype(np.uint8 if role == SEGMENTATION else np.int16), _HEADER_BYTES
    if isinstance(run.source, InsertDigest):  # a scan's own header and values
        head += MAX_OFFSET
        if role != SEGMENTATION:
            kind = np.dtype(run.source.kinds[layout.modalities.index(role)])
    return read_voxels(folder, layout.path(sample, role), shape, kind, head)


def _read_dicom(folder: Folder, run: RunDescription, layout: DicomLayout, sample: int, role: str) -> NDArray:
    require_dicom()
    from ..dicom.faults import DicomFault
    from ..dicom.own import own_series
    from ..dicom.segments import mask

    stack = run.stack()
    columns, rows, slices = stack.shape
    try:
        if role == SEGMENTATION:
            data = folder.read(layout.path(sample, role), columns * rows * slices + _DICOM_BYTES * (1 + slices // 64))
            return stack.turned(mask(data, stack, "the mask"))
        read = [folder.read(path, 2 * columns * rows + _DICOM_BYTES) for path in layout.series(sample, role)]
        return stack.turned(own_series(read, stack))
    except (DicomFault, InvalidInputError) as error:
        raise UnreadableError(f"{layout.path(sample, role)}: not a readable file of this run ({error})") from error


def read_voxels(
    folder: Folder, path: str, shape: tuple[int, ...], kind: np.dtype, head: int = _HEADER_BYTES
) -> NDArray:
    """The voxels (x, y, z) of a file of ours; no more is decompressed than that shape and its header (`head`) need.

    Raises:
        UnreadableError: it is no such file.
    """
    most = int(np.prod(shape)) * kind.itemsize + head
    try:
        with folder.reading(path) as handle, gzip.GzipFile(fileobj=handle) as stream:
            data = stream.read(most + 1)
        if len(data) > most:
            raise UnreadableError(f"{path}: holds more than {shape} voxels")
        is_second = data[:4] in (_NIFTI_2, _NIFTI_2[::-1])
        image = (nib.Nifti2Image if is_second else nib.Nifti1Image).from_stream(io.BytesIO(data))
        found = image.shape[:3] + tuple(side for side in image.shape[3:] if side != 1)
        if found != shape or image.get_data_dtype() != kind:
            held = f"{image.shape} voxels of {image.get_data_dtype()}"
            raise UnreadableError(f"{path}: holds {held}, not {shape} of {kind}")
        return np.asarray(image.dataobj).reshape(shape)
    except (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, ValueError) as error:
        raise UnreadableError(f"{path}: not a readable file of this run ({error})") from error
