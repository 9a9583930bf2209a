"""A scan, with a mask or healthy, whose lesion is to be changed: from a folder or from arrays, as a model sees it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from ..bundle.load import Bundle
from ..bundle.manifest import INT16_SCALE, SEGMENTATION
from ..errors import UsageError
from ..output.scan_files import ScanFile
from ..output.scan_voxels import ScanVoxels
from ..processor import available_threads
from ..sampling.insert_case import Lesion, PackedLabel, require_parts
from .bounded import Inflating, UnusableFileError, read_regular
from .case import LoadedCase
from .cases import CaseFiles
from .header import HeaderFault, ScanHeader, corners
from .labels import LabelMap
from .one_case import faults_of, one_case
from .options import ReadOptions
from .placement import Cloud, RasGrid, place
from .plausible import judge
from .prepare import LABELS, LEVELS, prepare_case
from .read import AFFINE_TOLERANCE_MM, CaseError, Mask, RawCase, decode, our_labels
from .resample import GridSampler

_MOST_BYTES = 2**31  # of a file, decompressed
_OURS = LabelMap({value: value for value in range(LABELS)}, "arrays")
_STORED = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")  # kinds of values that a NIfTI file holds


@dataclass(frozen=True)
class Scan:
    """A scan as arrays, skull-stripped, for `Generator.insert` and `Generator.remove`.

    `images` are (x, y, z) by modality (t1, t1ce, t2, flair), whole numbers or floating point in any scale, 0 outside
    the brain, in any orientation; `affine` (4, 4) turns voxel indices to millimetres, RAS; `label` (x, y, z) holds 0
    background, 1 NCR, 2 ED, 3 ET, None for a healthy scan.
    """

    images: Mapping[str, NDArray]
    affine: NDArray[np.floating]
    label: NDArray[np.integer] | None = None
    name: str = "scan"


@dataclass(frozen=True)
class OpenedScan:
    """A scan that was read, judged and brought to a model's grid: what several inserts may start from.

    `warnings` are what should be known of it.
    """

    name: str
    warnings: tuple[str, ...]
    files: tuple[ScanFile, ...]  # one a modality
    mask_file: ScanFile  # whose header labels get: the scan's own mask, else its first image
    header: ScanHeader  # of the first file
    grid: RasGrid
    brain: NDArray[np.bool_]  # (x, y, z) in RAS order, as `grid` turns
    own: Lesion  # the lesion that the scan has; may be empty
    image: NDArray[np.int16]  # (modality, x, y, z) on the model's grid, 0..1000
    scales: tuple[float, ...]  # value of each file that the model knows as its largest
    sampler: GridSampler
    voxels: ScanVoxels


@dataclass(frozen=True)
class ScanPart:
    """A modality or a mask as it was read."""

    name: str  # as messages call it
    file: ScanFile
    header: ScanHeader
    array: NDArray  # (x, y, z), scaled as the header says


ScanLike = str | os.PathLike[str] | Scan | OpenedScan


def open_scan(given: ScanLike, bundle: Bundle, options: ReadOptions) -> OpenedScan:
    """A folder of one scan in NIfTI, a file a modality, or arrays; the mask may be missing, or empty.

    Raises:
        UsageError: the bundle cannot make a part of a scan anew, or it is no scan.
        InvalidInputError: no scan, several, a broken one; every fault is named.
    """
    require_parts(bundle)
    if isinstance(given, OpenedScan):
        return given
    if isinstance(given, Scan):
        with faults_of(Path(given.name)):
            parts = _parts_of_arrays(given, bundle.manifest.modalities)
            return _opened(given.name, parts, _OURS, bundle, options)
    if not isinstance(given, str | os.PathLike):
        raise UsageError(f"scan {given!r}: must be the folder of one scan, a `Scan` of arrays, or an opened one")
    folder = Path(given)
    files, notes = one_case(folder, bundle.manifest.modalities, options, "scan", needs_mask=False)
    with faults_of(folder):
        parts = _parts_of_files(files, bundle.manifest.modalities, options)
        return _opened(files.name, parts, files.meaning, bundle, options, notes)


def read_part(path: Path, options: ReadOptions) -> ScanPart:
    """A file of one volume.

    Raises:
        CaseError: every fault of the file.
    """
    try:
        return _part(path.name, Inflating(read_regular(path)).take(_MOST_BYTES), options)
    except (UnusableFileError, HeaderFault) as error:
        raise CaseError([f"{path.name}: {text}" for text in getattr(error, "faults", [str(error)])]) from error


def apart(part: ScanPart, first_name: str, first: ScanHeader) -> str | None:
    """Why two files are not on the same voxels in the same order; None where they are."""
    name, header = part.name, part.header
    if header.shape != first.shape:
        return f"{name} has {header.shape} voxels, {first_name} {first.shape}; bring them to one grid"
    mm = _apart_mm(header.affine, first)
    if mm <= AFFINE_TOLERANCE_MM:
        return None
    if not np.array_equal(io_orientation(header.affine), io_orientation(first.affine)):
        return f"{name} has its axes in another order than {first_name} ({header.codes}, {first.codes})"
    return f"{name} lies {mm:.3g} mm away from {first_name}; bring them to one grid"


def aligned(part: ScanPart, first_name: str, first: ScanHeader, file: ScanFile) -> ScanPart:
    """A mask on the voxels of another file; turned to their order, with that `file`'s header, where its own differs.

    Raises:
        CaseError: it lies on other voxels.
    """
    text, order = apart(part, first_name, first), io_orientation(np.linalg.inv(first.affine) @ part.header.affine)
    if text is None:
        return part
    if np.isnan(order).any():
        raise CaseError([text])
    array, affine = apply_orientation(part.array, order), part.header.affine @ inv_ornt_aff(order, part.header.shape)
    turned = replace(part, array=array, header=replace(part.header, shape=array.shape, affine=affine), file=file)
    if text := apart(turned, first_name, first):
        raise CaseError([text])
    return turned


def _apart_mm(affine: NDArray[np.float64], first: ScanHeader) -> float:
    return float(np.abs(corners(affine, first.shape) - corners(first.affine, first.shape)).max())


def _part(name: str, plain: bytes, options: ReadOptions) -> ScanPart:
    header, array = decode(plain, options)
    if len(header.shape) != 3:
        shown = " x ".join(map(str, header.shape))
        raise UnusableFileError(f"4-dimensional ({shown}), must be one 3-dimensional volume; split it into a file each")
    x, y, z = header.shape
    file = ScanFile(plain, (x, y, z), header.dtype.str, header.offset, header.slope, header.intercept)
    return ScanPart(name, file, header, array)


def _parts_of_files(files: CaseFiles, modalities: Sequence[str], options: ReadOptions) -> dict[str, ScanPart]:
    """Each modality, and `seg` where there is a mask."""
    if any(files.images[modality].channel is not None for modality in modalities):
        raise CaseError(["its modalities are channels of one file; --insert and --remove need a file a modality"])
    paths = {modality: files.images[modality].path for modality in modalities}
    wanted = {**paths, **({SEGMENTATION: files.label} if files.label is not None else {})}
    parts, faults = dict[str, ScanPart](), list[str]()
    with ThreadPoolExecutor(available_threads(), "read") as pool:
        reading = {role: pool.submit(read_part, path, options) for role, path in wanted.items()}
        for role, part in reading.items():
            try:
                parts[role] = part.result()
            except CaseError as error:
                faults += error.faults
    if faults:
        raise CaseError(faults)
    return parts


def _parts_of_arrays(scan: Scan, modalities: Sequence[str]) -> dict[str, ScanPart]:
    arrays = {f"images[{name!r}]": (name, scan.images[name]) for name in modalities if name in scan.images}
    if missing := [name for name in modalities if name not in scan.images]:
        raise CaseError([f"missing modality {', '.join(missing)} (there: {', '.join(scan.images) or 'none'})"])
    if scan.label is not None:
        arrays["label"] = SEGMENTATION, scan.label
    parts, faults = dict[str, ScanPart](), list[str]()
    for shown, (role, array) in arrays.items():
        try:
            parts[role] = _part(shown, nifti_of(array, scan.affine), ReadOptions())
        except (UnusableFileError, HeaderFault) as error:
            faults += [f"{shown}: {text}" for text in getattr(error, "faults", [str(error)])]
    if faults:
        raise CaseError(faults)
    return parts


def nifti_of(array: object, affine: object) -> bytes:
    """The bytes of a NIfTI file of an array (x, y, z); UnusableFileError where there is none of it."""
    if not isinstance(array, np.ndarray) or array.dtype.str[1:] not in _STORED or array.ndim != 3 or array.size == 0:
        given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise UnusableFileError(f"must be an array (x, y, z) of whole numbers, float32 or float64, not {given}")
    matrix = np.asarray(affine, np.float64) if isinstance(affine, np.ndarray) else np.zeros(0)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or matrix[3].tolist() != [0, 0, 0, 1]:
        raise UnusableFileError("its affine must be an array of 4 rows of 4 numbers, the last 0, 0, 0, 1")
    image = nib.Nifti1Image(array, matrix, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def _opened(
    name: str, parts: dict[str, ScanPart], meaning: LabelMap, bundle: Bundle, options: ReadOptions,
    notes: Sequence[str] = (),
) -> OpenedScan:  # fmt: skip
    manifest = bundle.manifest
    modalities, view, model = manifest.modalities, manifest.grid.fov_mm, manifest.grid
    first = parts[modalities[0]]
    faults = [text for role in modalities if (text := apart(parts[role], first.name, first.header))]
    own = parts.get(SEGMENTATION)
    if own is not None:
        try:
            own = aligned(own, first.name, first.header, first.file)
        except CaseError as error:
            faults += error.faults
    if faults:
        raise CaseError(faults)
    images = {modality: parts[modality].array for modality in modalities}
    judgement = judge(images, {modality: parts[modality].name for modality in modalities})
    mask = _mask(own, meaning, first.header, options)
    grid = RasGrid.of(first.header.affine, first.header.shape)
    brain, label = grid.turn(judgement.brain), grid.turn(mask.label)
    placement = place(grid, grid.turn(images[modalities[0]] != 0), Cloud(grid, label > 0), view)
    if faults := [*judgement.faults, *placement.faults(view)]:
        raise CaseError(faults)
    turned = [grid.turn(image) for image in images.values()]
    intensities = [judgement.intensities[modality] for modality in modalities]
    warnings = (*notes, *mask.warnings, *placement.warnings(view))
    raw = RawCase(images, mask, first.header)
    prepared = prepare_case(LoadedCase(raw, grid, turned, label, brain, intensities, placement, warnings), model)
    centre = placement.centre_mm if placement.is_on_brain else None
    middle = grid.centre_mm if centre is None else np.asarray(centre)
    return OpenedScan(
        name, warnings, tuple(parts[modality].file for modality in modalities),
        (own or first).file, first.header, grid, brain,
        Lesion(PackedLabel.of(prepared.label), PackedLabel.of(mask.label)),
        np.rint(prepared.image.astype(np.float32) * (INT16_SCALE / LEVELS)).astype(np.int16), prepared.scales,
        GridSampler(first.header.shape, first.header.affine, model.shape, model.spacing_mm, centre),
        ScanVoxels.of(first.header.shape, first.header.affine, middle),
    )  # fmt: skip


def _mask(part: ScanPart | None, meaning: LabelMap, first: ScanHeader, options: ReadOptions) -> Mask:
    """The scan's own mask; an empty one where it has none."""
    if part is not None and part.array.any():
        if meaning.is_binary:
            raise CaseError([f"{part.name}: has one label for the whole tumour; NCR, ED and ET are needed"])
        return our_labels(part.array, part.name, meaning, options, first.voxel_ml)
    nothing = slice(0, 1)
    return Mask(np.zeros(first.shape, np.uint8), (), (0, 0, 0), 0, (nothing, nothing, nothing), ())
