"""Reading the files of one case: NIfTI of any flavour, with every fault of the case found in one pass."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from .discover import CaseFiles

Source = Literal["real", "phantom"]
PHANTOM_DESCRIPTION = b"SYNTHETIC sbldm-engine phantom"  # NIfTI's descrip in the files of procedural cases

UNREADABLE: tuple[type[Exception], ...] = (
    OSError, EOFError, ValueError, OverflowError, MemoryError,
    isal_zlib.IsalError,  # pyright: ignore[reportAssignmentType] - the stub declares an instance
    ImageFileError, HeaderDataError, WrapStructError,
)  # fmt: skip
AFFINE_TOLERANCE_MM = 0.1  # how far a corner of two scans of one case may lie apart


class CaseError(Exception):
    """What is wrong with one case, one text a fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = list(faults)

    def __reduce__(self) -> tuple[type[CaseError], tuple[list[str]]]:
        return (CaseError, (self.faults,))


@dataclass(frozen=True)
class RawCase:
    """One case as its files hold it."""

    images: list[NDArray]  # one (x, y, z) a modality, the file's orientation and values
    label: NDArray[np.uint8]  # (x, y, z): 0 background, 1 NCR, 2 ED, 3 ET
    affine: NDArray[np.float64]  # (4, 4), mm
    source: Source = "real"


def read_bytes(files: CaseFiles, modalities: Sequence[str]) -> tuple[list[bytes], str]:
    """The bytes of the images and then of the label, and the sha256 over all of them and what the labels mean."""
    if files.label is None:
        raise CaseError(["missing segmentation"])
    contents: list[bytes] = []
    faults: list[str] = []
    digest = hashlib.sha256(repr(sorted(files.label_values.items())).encode())
    for path in [*(files.images[modality] for modality in modalities), files.label]:
        try:
            content = path.read_bytes()
        except OSError as error:
            faults.append(f"{path.name}: unreadable ({error.strerror})")
            continue
        digest.update(hashlib.sha256(content).digest())
        contents.append(content)
    if faults:
        raise CaseError(faults)
    return contents, digest.hexdigest()


def decode_case(files: CaseFiles, modalities: Sequence[str], contents: Sequence[bytes]) -> RawCase:
    """Decode and check what `read_bytes` read; raises `CaseError` with every fault of the case."""
    if files.label is None:
        raise CaseError(["missing segmentation"])
    paths = [*(files.images[modality] for modality in modalities), files.label]
    arrays: list[NDArray] = []
    affines: list[NDArray[np.float64]] = []
    descriptions: set[bytes] = set()
    faults: list[str] = []
    for path, content in zip(paths, contents, strict=True):
        try:
            array, affine, description = _decode(content)
        except UNREADABLE as error:
            faults.append(f"{path.name}: unreadable ({error or type(error).__name__})")
            continue
        faults += [f"{path.name}: {text}" for text in _faults_of_file(array, affine)]
        arrays.append(array)
        affines.append(affine)
        descriptions.add(description)
    if faults:
        raise CaseError(faults)
    _check_geometry(paths, arrays, affines)
    label = _our_labels(arrays[-1], files)
    _check_intensities(paths, arrays[:-1])
    return RawCase(arrays[:-1], label, affines[0], "phantom" if descriptions == {PHANTOM_DESCRIPTION} else "real")


def _decode(content: bytes) -> tuple[NDArray, NDArray[np.float64], bytes]:
    """Voxels, affine and description of a NIfTI file."""
    if content[:2] == b"\x1f\x8b":
        content = igzip.decompress(content)
    kind = nib.Nifti2Image if content[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c") else nib.Nifti1Image
    image = kind.from_bytes(content)
    array = np.asanyarray(image.dataobj)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return array, np.asarray(image.affine, np.float64), bytes(image.header["descrip"].item())


def _faults_of_file(array: NDArray, affine: NDArray[np.float64]) -> list[str]:
    faults = []
    if array.ndim != 3:
        faults.append(f"{array.ndim}-dimensional {array.shape}, must be one 3-dimensional volume")
    if array.dtype.kind not in "iuf":
        faults.append(f"values of type {array.dtype}, must be numbers")
    elif array.dtype.kind == "f" and not np.isfinite(array).all():
        faults.append("holds values that are not finite")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        faults.append("its affine is not invertible")
    return faults


def _check_geometry(paths: Sequence[Path], arrays: Sequence[NDArray], affines: Sequence[NDArray[np.float64]]) -> None:
    faults = []
    corner_sets = []
    for array, affine in zip(arrays, affines, strict=True):
        index = np.stack(np.meshgrid(*[(0, n - 1) for n in array.shape], indexing="ij"), axis=-1).reshape(-1, 3)
        corner_sets.append(index @ affine[:3, :3].T + affine[:3, 3])
    for path, array, corners in zip(paths[1:], arrays[1:], corner_sets[1:], strict=True):
        if array.shape != arrays[0].shape:
            faults.append(f"mismatched shapes: {path.name} {array.shape}, {paths[0].name} {arrays[0].shape}")
            continue
        apart = float(np.abs(corners - corner_sets[0]).max())
        if apart > AFFINE_TOLERANCE_MM:
            faults.append(f"mismatched affines: {path.name} lies {apart:.3g} mm away from {paths[0].name}")
    if faults:
        raise CaseError(faults)


def _our_labels(array: NDArray, files: CaseFiles) -> NDArray[np.uint8]:
    name = files.label.name if files.label is not None else files.name
    low, high = float(array.min()), float(array.max())
    allowed = ", ".join(str(value) for value in sorted(files.label_values))
    if low < 0 or high > 255:
        raise CaseError([f"{name}: unknown label {low if low < 0 else high:g}; allowed: {allowed}"])
    values = array.astype(np.uint8)
    if array.dtype.kind == "f" and not np.array_equal(values, array):
        raise CaseError([f"{name}: labels that are not whole numbers; allowed: {allowed}"])
    present = np.flatnonzero(np.bincount(values.ravel(order="K"), minlength=256))
    unknown = [str(value) for value in present if int(value) not in files.label_values]
    if unknown:
        raise CaseError([f"{name}: unknown label {', '.join(unknown)}; allowed: {allowed}"])
    if not any(files.label_values[int(value)] for value in present):
        raise CaseError([f"{name}: empty mask, no voxel of it is tumour"])
    table = np.zeros(256, np.uint8)
    for value, ours in files.label_values.items():
        table[value] = ours
    return table[values]


def _check_intensities(paths: Sequence[Path], images: Sequence[NDArray]) -> None:
    faults = []
    for path, image in zip(paths, images, strict=False):
        high = float(image.max())
        if high <= 0:
            faults.append(f"{path.name}: empty image, no value above 0")
        elif np.count_nonzero(image < 0) > 0.01 * np.count_nonzero(image):
            faults.append(f"{path.name}: negative values in more than 1 % of the brain; background must be 0")
    if faults:
        raise CaseError(faults)
