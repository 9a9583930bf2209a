"""Small synthetic scans: an ellipsoid of brain with a ball of three tissues, written in any convention."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (48, 48, 32)
SPACING = (4.0, 4.0, 4.8)
MODALITIES = ("t1", "t1ce", "t2", "flair")
BRATS_NUMBERS = (1, 2, 4)  # necrosis, oedema, enhancing
_TISSUE_GREYS = {"t1": (330, 250), "t1ce": (340, 260), "t2": (560, 300), "flair": (600, 380)}


def affine(spacing: Sequence[float] = SPACING, shape: Sequence[int] = SHAPE, degrees: float = 0, axis: int = 2):
    """RAS voxel index -> mm, centred, turned by `degrees` about an axis."""
    a, (i, j) = np.deg2rad(degrees), [k for k in range(3) if k != axis]
    turn = np.eye(3)
    turn[i, i] = turn[j, j] = np.cos(a)
    turn[i, j], turn[j, i] = -np.sin(a), np.sin(a)
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.diag(spacing)
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return matrix


def arrays(
    shape: Sequence[int] = SHAPE,
    spacing: Sequence[float] = SPACING,
    offset: Sequence[float] = (0, 0, 0),
    tumour: Sequence[float] = (32.0, 20.0, 10.0),
    numbers: Sequence[int] = BRATS_NUMBERS,
) -> dict[str, np.ndarray]:
    """Images int16 and `seg` uint8 (x, y, z); brain 70 x 80 x 60 mm half-axes, its centre `offset` mm off the middle,
    the tumour `tumour` mm off the brain's."""
    grid = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij")
    place = np.stack([g * s - o for g, s, o in zip(grid, spacing, offset, strict=True)])
    brain = ((place / np.array([70, 80, 60]).reshape(3, 1, 1, 1)) ** 2).sum(0) < 1
    distance = np.sqrt(((place - np.reshape(tumour, (3, 1, 1, 1))) ** 2).sum(0))
    ncr, ed, et = numbers
    seg = np.select([distance < 11, distance < 16, distance < 24], [ncr, et, ed], 0).astype(np.uint8) * brain
    stripes = (np.indices(shape).sum(0) % 5) * 4
    case: dict[str, np.ndarray] = {}
    for number, (name, (bright, dark)) in enumerate(_TISSUE_GREYS.items()):
        image = np.where(distance < 24, 700 + 50 * number, np.where(grid[2] % 2 < 1, bright, dark)) + stripes
        case[name] = np.where(brain, image, 0).astype(np.int16)
    return case | {"seg": seg.astype(np.uint8)}


def save(path: Path, array: np.ndarray, matrix: np.ndarray | None = None, *, sform: int = 1, qform: int = 1) -> None:
    """A NIfTI file with these codes, units mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine() if matrix is None else matrix)
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, sform)
    image.set_qform(image.affine, qform)
    nib.save(image, path)


def write_case(
    folder: Path,
    name: str,
    case: Mapping[str, np.ndarray] | None = None,
    matrix: np.ndarray | None = None,
    *,
    names: Mapping[str, str] | None = None,
    separator: str = "_",
    **codes: int,
) -> Path:
    """A case in a folder of its own; `names` spells the parts otherwise. Gives the folder."""
    for part, array in (arrays() if case is None else case).items():
        spelled = (names or {}).get(part, part)
        save(folder / name / f"{name}{separator}{spelled}.nii.gz", array, matrix, **codes)
    return folder / name


def write_nnunet(
    folder: Path,
    labels: object,
    numbers: Sequence[int] = (1, 2, 3),
    cases: int = 1,
    images: bool = True,
    **more: object,
) -> Path:
    """An nnU-Net 2 data set of cases P_000, ...; `more` goes into its dataset.json."""
    for number in range(cases):
        case = arrays(tumour=(32.0 - 4 * number, 20.0, 10.0), numbers=numbers)
        save(folder / "labelsTr" / f"P_{number:03d}.nii.gz", case["seg"])
        for channel, modality in enumerate(MODALITIES if images else ()):
            save(folder / "imagesTr" / f"P_{number:03d}_{channel:04d}.nii.gz", case[modality])
    channels = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    described = {"channel_names": channels, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz", **more}
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


def as_sample(case: Path) -> Path:
    """The case in this folder with the header of one that a model of this program made."""
    for path in sorted(case.glob("*.nii.gz")):
        image = nib.nifti1.load(path)
        image.header["descrip"] = b"SYNTHETIC sbldm-engine 0.2.0 seed 1 sample 2"
        nib.nifti1.save(nib.nifti1.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)
    return case
