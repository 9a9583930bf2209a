"""Reading the files of one case: one pass over headers and voxels, with every fault of the case told."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray

from ..blocks import bounding_box
from .bounded import Inflating, UnusableFileError, read_regular
from .cases import CaseFiles, ImageFile
from .header import HEADER_BYTES, Affine, HeaderFault, ScanHeader, corners, parse_header
from .labels import CAVITY, IGNORE, LABELS_EXAMPLE, MAX_VALUE, NECROSIS, TISSUES, LabelMap
from .options import ReadOptions
from .placement import Cloud, RasGrid

REMAP = f"if the numbers mean something else, say so: {LABELS_EXAMPLE}"
AFFINE_TOLERANCE_MM = 0.1  # how far a corner of two scans of one case may lie apart

Contents = Mapping[Path, bytes]


class CaseError(Exception):
    """What is wrong with one case, one text a fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = list(faults)

    def __reduce__(self) -> tuple[type[CaseError], tuple[list[str]]]:
        return (CaseError, (self.faults,))


@dataclass(frozen=True)
class Mask:
    """A segmentation with its values as ours."""

    label: NDArray[np.uint8]  # (x, y, z): 0 background, 1 NCR, 2 ED, 3 ET
    values: tuple[int, ...]  # of the file, those that are there, without 0
    tissue_voxels: tuple[int, int, int]  # NCR, ED, ET
    cavity_voxels: int
    box: tuple[slice, slice, slice]  # around its values that are not 0
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class RawCase:
    """One case as its files hold it, all arrays in the voxel order of the first file."""

    images: dict[str, NDArray]  # modality -> (x, y, z)
    mask: Mask
    header: ScanHeader  # of the first file

    @property
    def label(self) -> NDArray[np.uint8]:
        """(x, y, z): 0 background, 1 NCR, 2 ED, 3 ET."""
        return self.mask.label

    @property
    def affine(self) -> Affine:
        """(4, 4) voxel index -> RAS mm."""
        return self.header.affine

    def tumour(self, grid: RasGrid) -> Cloud:
        """Where the tumour lies; `grid` is that of the label."""
        crop = grid.turn(self.mask.label[self.mask.box])
        return Cloud(grid, crop > 0, grid.turn_box(self.mask.box, self.mask.label.shape))


def read_contents(files: CaseFiles, modalities: Sequence[str], known: Contents | None = None) -> Contents:
    """The bytes of each file of these modalities and of the mask, those in `known` not read again.

    Raises:
        CaseError: every file that cannot be read.
    """
    contents: dict[Path, bytes] = {}
    faults: list[str] = []
    for path in (part for image in wanted_files(files, modalities) for part in files.parts(image)):
        if path in contents:
            continue
        try:
            contents[path] = (known or {}).get(path) or read_regular(path)
        except UnusableFileError as error:
            faults.append(f"{path.name}: {error}")
    if faults:
        raise CaseError(list(dict.fromkeys(faults)))
    return contents


def digest(files: CaseFiles, modalities: Sequence[str], contents: Contents, options: ReadOptions) -> str:
    """The sha256 over all files and over how they are to be read."""
    summed = hashlib.sha256(repr(reading(files, options)).encode())
    for image in wanted_files(files, modalities):
        for part in files.parts(image):
            summed.update(f"{image.channel}".encode() + hashlib.sha256(contents[part]).digest())
    return summed.hexdigest()


def reading(files: CaseFiles, options: ReadOptions) -> tuple[object, ...]:
    """How the files of a case are read: what their labels mean, and the options."""
    return (sorted(files.meaning.values.items()), files.meaning.is_binary, options.cavity, options.orientation)


def wanted_files(files: CaseFiles, modalities: Sequence[str]) -> list[ImageFile]:
    """The files of these modalities and the mask.

    Raises:
        CaseError: there is no mask.
    """
    if files.label is None:
        raise CaseError(["missing segmentation"])
    return [*(files.images[modality] for modality in modalities), ImageFile(files.label)]


def decode_case(files: CaseFiles, modalities: Sequence[str], contents: Contents, options: ReadOptions) -> RawCase:
    """Decode and check what `read_contents` read; raises `CaseError` with every fault of the case."""
    wanted = wanted_files(files, modalities)
    decoded: dict[Path, tuple[ScanHeader, NDArray]] = {}
    faults: list[str] = []
    for image in wanted:
        if image.path in decoded:
            continue
        try:
            decoded[image.path] = _decoded(files, image, contents, options)
        except (UnusableFileError, HeaderFault) as error:
            faults += [f"{files.shown(image)}: {text}" for text in getattr(error, "faults", [str(error)])]
    for image in wanted:
        if image.path in decoded and (text := _channel_fault(image, decoded[image.path][0])):
            faults.append(f"{image.path.name}: {text}")
    if faults:
        raise CaseError(list(dict.fromkeys(faults)))
    first = decoded[wanted[0].path][0]
    shown = [Path(files.shown(image)) for image in wanted]
    arrays = _in_one_order(
        [(name, *decoded[image.path], image.channel) for name, image in zip(shown, wanted, strict=True)], first
    )
    mask = our_labels(arrays[-1], shown[-1].name, files.meaning, options, first.voxel_ml)
    return RawCase(dict(zip(modalities, arrays[:-1], strict=True)), mask, first)


def _decoded(
    files: CaseFiles, image: ImageFile, contents: Contents, options: ReadOptions
) -> tuple[ScanHeader, NDArray]:
    if files.study is None:
        return decode(contents[image.path], options)
    from ..dicom.faults import DicomFault, reading

    role = image.path.name
    try:
        with reading():
            array = files.study.voxels(role, contents)
        return ScanHeader(array.shape, files.study.stack(role).ras, array.dtype, 0, 1.0, 0.0), array
    except DicomFault as fault:
        raise HeaderFault(*fault.faults) from fault


def decode(content: bytes, options: ReadOptions) -> tuple[ScanHeader, NDArray]:
    """Header and voxels, (x, y, z) or (x, y, z, channels), scaled as the header says.

    Raises:
        HeaderFault: the header is not what it must be.
        UnusableFileError: the voxels are damaged, missing or not finite.
    """
    source = Inflating(content)
    head = source.take(HEADER_BYTES)
    header = parse_header(head, options.orientation)
    size = int(np.prod(header.shape)) * header.dtype.itemsize
    start = header.offset - len(head)
    early = head[header.offset :]
    if start > 0:
        source.take(start)
    data = source.take(size - len(early))
    if early:
        data = early + data
    if len(data) < size:
        raise UnusableFileError(f"unreadable ({len(data)} bytes of voxels, its header says {size})")
    source.finish()
    array: NDArray = np.frombuffer(data, header.dtype).reshape(header.shape, order="F")
    if header.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnusableFileError("holds values that are not finite")
    if (header.slope, header.intercept) != (1.0, 0.0):
        array = array * header.slope + header.intercept
    return header, array


def _channel_fault(image: ImageFile, header: ScanHeader) -> str | None:
    channels = header.shape[3] if len(header.shape) == 4 else 0
    if image.channel is None:
        text = " x ".join(map(str, header.shape))
        return (
            f"4-dimensional ({text}), must be one 3-dimensional volume; 4D files are read where a dataset.json names "
            "their channels (Decathlon), else convert them with nnUNetv2_convert_MSD_dataset"
            if channels
            else None
        )
    if image.channel >= channels:
        return f"has {channels or 1} channels, dataset.json names channel {image.channel}"
    return None


def _in_one_order(files: Sequence[tuple[Path, ScanHeader, NDArray, int | None]], first: ScanHeader) -> list[NDArray]:
    """The arrays in the voxel order of the first file, whatever order they are stored in; raises `CaseError`."""
    inverse = np.linalg.inv(first.affine)
    arrays: list[NDArray] = []
    faults: list[str] = []
    for path, header, array, channel in files:
        volume = array if channel is None else array[..., channel]
        order = io_orientation(inverse @ header.affine)
        if np.isnan(order).any():
            faults.append(f"mismatched affines: {path.name} and {files[0][0].name} lie askew")
            continue
        turned = apply_orientation(volume, order)
        shape, expected = turned.shape, first.shape[:3]
        if shape != expected:
            faults.append(f"mismatched shapes: {path.name} {shape}, {files[0][0].name} {expected}, in one axis order")
            continue
        apart = _corners_apart(header, volume.shape, first, expected, order)
        if apart > AFFINE_TOLERANCE_MM:
            faults.append(
                f"mismatched affines: {path.name} lies {apart:.3g} mm away from {files[0][0].name} (in one axis order)"
            )
        arrays.append(turned)
    if faults:
        raise CaseError(faults)
    return arrays


def _corners_apart(
    header: ScanHeader, shape: tuple[int, ...], first: ScanHeader, first_shape: tuple[int, ...], order: NDArray
) -> float:
    grid = corners(header.affine, shape).reshape(2, 2, 2, 3)
    turned = np.stack([apply_orientation(grid[..., axis], order) for axis in range(3)], axis=-1)
    return float(np.abs(turned.reshape(-1, 3) - corners(first.affine, first_shape)).max())


def our_labels(array: NDArray, name: str, meaning: LabelMap, options: ReadOptions, voxel_ml: float) -> Mask:
    """A mask's values as ours; `voxel_ml` is the volume of a voxel.

    Raises:
        CaseError: values that are no labels, that nobody explains, a cavity without a choice, no tumour.
    """
    explained = f"allowed: {meaning.allowed()} ({meaning.source}: {meaning.described()}); {REMAP}"
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > MAX_VALUE:
        raise CaseError([f"{name}: unknown label {low if low < 0 else high:g}; {explained}"])
    values = array.astype(np.uint8 if high <= 255 else np.uint16, copy=False)
    if array.dtype.kind == "f" and not np.array_equal(values, array):
        raise CaseError([f"{name}: labels that are not whole numbers; {explained}"])
    box = bounding_box(values != 0)
    counts = np.bincount(values[box].ravel(order="K"), minlength=1)
    present = tuple(int(value) for value in np.flatnonzero(counts) if value)
    unknown = [str(value) for value in present if value not in meaning.values]
    if unknown:
        raise CaseError([f"{name}: unknown label {', '.join(unknown)}; {explained}"])
    warnings = []
    cavity = sum(int(counts[value]) for value in present if meaning.values[value] == CAVITY)
    if cavity:
        warnings.append(_cavity(name, meaning, options, cavity * voxel_ml))
    ignored = sum(int(counts[value]) for value in present if meaning.values[value] == IGNORE)
    if ignored:
        warnings.append(f"{name}: {ignored * voxel_ml:.3g} ml are labelled ignore and count as background")
    kinds = {value: _kept(meaning.values[value], options) for value in present}
    if not any(kinds.values()):
        raise CaseError([f"{name}: empty mask, no voxel of it is tumour"])
    voxels = [sum(int(counts[value]) for value in present if kinds[value] == tissue) for tissue in TISSUES]
    label = values.astype(np.uint8, copy=False)
    if any(value != kind for value, kind in kinds.items()):
        table = np.zeros(int(high) + 1, np.uint8)
        table[list(kinds)] = list(kinds.values())
        label = table[values]
    return Mask(label, present, (voxels[0], voxels[1], voxels[2]), cavity, box, tuple(warnings))


def _kept(kind: int, options: ReadOptions) -> int:
    if kind == CAVITY:
        return NECROSIS if options.cavity == "necrosis" else 0
    return kind if kind in TISSUES else 0


def _cavity(name: str, meaning: LabelMap, options: ReadOptions, volume_ml: float) -> str:
    value = meaning.value_of(CAVITY)
    text = f"{name}: {volume_ml:.3g} ml of resection cavity (label {value})"
    if options.cavity == "refuse":
        choices = "--cavity background leaves it out of the tumour, --cavity necrosis counts it as necrotic core"
        raise CaseError([f"{text}; {choices}; {REMAP}"])
    kept = "left out of the tumour" if options.cavity == "background" else "counted as necrotic core"
    return f"{text} is {kept} (--cavity {options.cavity})"
