"""Pack the anatomies from FreeSurfer label maps: `python -m sbldm.train.phantom.pack_anatomies FOLDER`.

FOLDER holds the twenty label maps (`*.nii.gz`, RAS after reorientation, brain and outer fluid only).
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from nibabel.funcs import as_closest_canonical
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray
from scipy import ndimage

from ...engine.anatomy import anatomies
from ...engine.anatomy.anatomies import COUNT, FILE, SPACING_MM, Tissue
from ...engine.errors import InvalidInputError

FREESURFER = {
    Tissue.WHITE: (2, 41),
    Tissue.CORTEX: (3, 42),
    Tissue.CSF: (24, 30, 62),
    Tissue.VENTRICLE: (4, 5, 14, 15, 43, 44, 72),
    Tissue.CEREBELLAR_WHITE: (7, 46),
    Tissue.CEREBELLAR_CORTEX: (8, 47),
    Tissue.THALAMUS: (9, 10, 48, 49),
    Tissue.CAUDATE: (11, 50),
    Tissue.PUTAMEN: (12, 26, 51, 58),
    Tissue.PALLIDUM: (13, 52),
    Tissue.STEM: (16, 28, 60, 85),
    Tissue.HIPPOCAMPUS: (17, 18, 53, 54),
    Tissue.LESION: (25, 57, 77),
    Tissue.CHOROID: (31, 63, 136, 137, 163, 164),
}


def anatomy_from_labels(labels: NDArray[np.integer], spacing_mm: Sequence[float]) -> NDArray[np.uint8]:
    """Tissues at `SPACING_MM` of FreeSurfer labels (x, y, z) in RAS+; enclosed gaps get the tissue nearest to them.

    Raises InvalidInputError for a label that is not in `FREESURFER`.
    """
    table = np.full(256, 255, np.uint8)
    table[0] = Tissue.OUTSIDE
    for tissue, numbers in FREESURFER.items():
        table[list(numbers)] = tissue
    tissues = table[labels]
    if (tissues == 255).any():
        unknown = np.unique(labels[tissues == 255]).tolist()
        raise InvalidInputError(f"label {', '.join(map(str, unknown))} is none of the FreeSurfer labels known here")
    sampled = _without_gaps(_sample_labels(_without_gaps(tissues), np.asarray(spacing_mm, np.float64)))
    found = np.argwhere(sampled > 0)
    low, high = found.min(0), found.max(0) + 1
    return np.pad(sampled[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], 1)


def _without_gaps(tissues: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gaps = cast(NDArray[np.bool_], ndimage.binary_fill_holes(tissues > 0)) & (tissues == 0)
    nearest = cast(
        NDArray[np.int32],
        ndimage.distance_transform_edt(tissues == 0, return_distances=False, return_indices=True),
    )
    return np.where(gaps, tissues[tuple(nearest)], tissues)


def _sample_labels(tissues: NDArray[np.uint8], spacing_mm: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Each tissue slightly smoothed and linearly sampled, then the largest."""
    step = SPACING_MM / spacing_mm
    shape = tuple(int(np.ceil(size / s)) for size, s in zip(tissues.shape, step, strict=True))
    best, sampled = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
    for tissue in (Tissue.OUTSIDE, *FREESURFER):
        share = ndimage.gaussian_filter((tissues == tissue).astype(np.float32), 0.35 * step)
        share = ndimage.affine_transform(share, step, output_shape=shape, order=1, mode="nearest")
        larger = share > best
        best[larger], sampled[larger] = share[larger], tissue
    return sampled


def pack(folder: Path, out: Path) -> None:
    """Write the anatomies of the label maps in `folder`, in the order of their names, as one npz (LZMA, no clock)."""
    paths = sorted(folder.glob("*.nii.gz"))
    if len(paths) != COUNT:
        raise InvalidInputError(f"{folder}: {len(paths)} label maps (*.nii.gz), {COUNT} are needed")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        for number, path in enumerate(paths, start=1):
            image = cast(Nifti1Image, as_closest_canonical(Nifti1Image.from_filename(path)))
            labels = np.asarray(image.dataobj)
            stream = io.BytesIO()
            np.save(stream, anatomy_from_labels(labels, image.header.get_zooms()[:3]))
            entry = zipfile.ZipInfo(f"anatomy_{number:02d}.npy")
            entry.compress_type = zipfile.ZIP_LZMA
            archive.writestr(entry, stream.getvalue())


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(anatomies.__file__).with_name(FILE))
