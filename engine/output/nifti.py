"""Volumes to the bytes of `.nii.gz` files: true affine, no clock, no name, so equal arrays give equal bytes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from ..dicom.about import SYNTHETIC as SYNTHETIC
from ..errors import InvalidInputError

COMPRESSOR = "isal-1"
"""Name of compressor and level as `run.json` records it."""
_LEVEL = 1
_MILLIMETRES, _SCANNER_FRAME = 2, 1
_DESCRIPTION_BYTES = 79


def nifti_bytes(data: NDArray[np.int16] | NDArray[np.uint8], affine: NDArray[np.float64], description: str) -> bytes:
    """Bytes of a gzip-compressed NIfTI-1 file.

    `data`: (x, y, z) int16 or uint8, stored without scaling. `affine`: (4, 4), voxel index to millimetres (RAS+),
    written as qform and sform, code 1. `description`: ASCII, cut at 79 bytes.
    """
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_qform(affine, _SCANNER_FRAME)
    image.set_sform(affine, _SCANNER_FRAME)
    header = image.header
    header["xyzt_units"] = _MILLIMETRES
    header["descrip"] = description.encode("ascii", "replace")[:_DESCRIPTION_BYTES]
    return igzip.compress(image.to_bytes(), _LEVEL, mtime=0)


def renumbered(data: bytes, table: NDArray[np.uint8]) -> bytes:
    """A mask file of ours (uint8, written by `nifti_bytes`) with other values; `table` (256,): value -> new value."""
    plain = igzip.decompress(data)
    header = nib.Nifti1Header(plain[: nib.Nifti1Header.template_dtype.itemsize])
    start, voxels = int(header["vox_offset"]), header.get_data_dtype()
    if voxels != np.uint8:
        raise InvalidInputError(f"a mask of {voxels}, must be uint8")
    changed = table[np.frombuffer(plain, np.uint8, offset=start)]
    return igzip.compress(plain[:start] + changed.tobytes(), _LEVEL, mtime=0)


def read_nifti(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A scan turned to RAS+: (x, y, z) float32 and its affine (4, 4) in millimetres.

    Raises:
        InvalidInputError: no readable NIfTI file of three dimensions.
    """
    try:
        image = nib.as_closest_canonical(nib.load(path))  # type: ignore[arg-type]
        data = np.asarray(image.dataobj, np.float32)  # type: ignore[attr-defined]
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise InvalidInputError(f"{path}: not a readable NIfTI file ({error})") from error
    if data.ndim != 3:
        raise InvalidInputError(f"{path}: has {data.ndim} dimensions, must have three")
    return data, np.asarray(image.affine, np.float64)  # type: ignore[attr-defined]
