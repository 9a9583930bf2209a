"""A scan that a lesion is put into, or taken out of, and the masks that are given for it."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..bundle.load import Bundle
from ..bundle.manifest import Grid
from ..conditions.columns import Conditions
from ..errors import InvalidInputError, UsageError
from ..output.scan_files import ScanFile
from ..output.scan_voxels import ScanVoxels

MARGINS_MM = (4.0, 40.0)  # least and most
DEFAULT_MARGIN_MM = 12.0
MOST_VOLUMES = 32

Label = NDArray[np.uint8]


@dataclass(frozen=True)
class PackedLabel:
    """A label (x, y, z), compressed."""

    shape: tuple[int, int, int]
    data: bytes

    @staticmethod
    def of(label: Label) -> PackedLabel:
        """Of an array in any order."""
        x, y, z = label.shape
        return PackedLabel((x, y, z), zlib.compress(label.tobytes(), 1))

    def label(self) -> Label:
        """The array; read-only."""
        return np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(self.shape)


@dataclass(frozen=True)
class Lesion:
    """One tumour: on the model's grid (RAS), and on the scan's voxels in the order of its files."""

    grid: PackedLabel
    scan: PackedLabel


@dataclass(frozen=True)
class InsertCase:
    """A scan in its own voxels, what the model sees of it, and what is to be done."""

    files: tuple[ScanFile, ...]  # one a modality, all in one order of axes
    mask_file: ScanFile  # whose header the labels get: the scan's own mask, else its first image
    scales: tuple[float, ...]  # value of each file that the model knows as its largest
    voxels: ScanVoxels
    image: NDArray[np.int16]  # (modality, x, y, z) on the model's grid, RAS, 0..1000
    own: Lesion  # the lesion that the scan has; may be empty
    removes: bool  # fill that lesion first
    inserts: bool
    given: tuple[Lesion, ...]  # masks to be inserted; none: they are drawn from the conditions
    volumes_ml: tuple[float, ...]  # rising, of a series of each lesion; none: no series
    series: tuple[tuple[float, ...], ...]  # complete rows at the largest volume, where lesions are drawn
    conditions: Conditions | None  # complete; None where they are those of the request
    margin_mm: float
    has_mass_effect: bool

    def sha256(self) -> str:
        """Digest of the scan's files, of the masks and of what is to be done."""
        digest = hashlib.sha256()
        for file in (*self.files, self.mask_file):
            digest.update(file.plain)
        for lesion in (self.own, *self.given):
            digest.update(lesion.grid.label().tobytes() + lesion.scan.label().tobytes())
        done = (self.removes, self.inserts, self.margin_mm, self.has_mass_effect)
        digest.update(repr((self.scales, self.volumes_ml, self.series, done)).encode())
        return digest.hexdigest()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel sizes along the axes of the files."""
        x, y, z = np.linalg.norm(np.array(self.voxels.affine)[:3, :3], axis=0).tolist()
        return x, y, z


def require_parts(bundle: Bundle) -> None:
    """UsageError where the bundle cannot make a part of a scan anew."""
    manifest = bundle.manifest
    if manifest.mask_first is None:
        raise UsageError(
            f"--insert, --remove: bundle {manifest.id} makes mask and image together, it cannot draw a part of a scan; "
            "a bundle of the form mask-first can"
        )


def check_insert(case: InsertCase, bundle: Bundle) -> None:
    """Hold a scan to the bundle.

    Raises:
        UsageError: the bundle takes no masks, or options out of range or against each other.
        InvalidInputError: shapes are not the bundle's.
    """
    require_parts(bundle)
    manifest = bundle.manifest
    low, high = MARGINS_MM
    if not low <= case.margin_mm <= high:
        raise UsageError(f"--margin {case.margin_mm:g}: must be from {low:g} to {high:g} mm")
    wanted = (len(manifest.modalities), *manifest.grid.shape)
    if case.image.shape != wanted or len(case.files) != len(manifest.modalities):
        raise InvalidInputError(f"the scan has {case.image.shape} voxels on the model's grid, not {wanted}")


def check_volumes(volumes_ml: Sequence[float]) -> None:
    """UsageError for volumes of a series that are none, or do not rise."""
    if not volumes_ml or len(volumes_ml) > MOST_VOLUMES:
        raise UsageError(f"--volumes: must be 1 to {MOST_VOLUMES} numbers of ml, such as 5,10,20,40")
    if not (np.isfinite(volumes_ml).all() and min(volumes_ml) > 0):
        raise UsageError(f"--volumes {','.join(f'{v:g}' for v in volumes_ml)}: must be numbers of ml above 0")
    if any(later <= first for first, later in pairwise(volumes_ml)):
        raise UsageError(f"--volumes {','.join(f'{v:g}' for v in volumes_ml)}: must rise, each above the one before")


def scan_label(label: Label, grid: Grid, voxels: ScanVoxels) -> Label:
    """A label of the model's grid on the voxels of a scan, in the order of its files.

    Whole tumour, core and necrosis are brought there linearly, each within the one before, so that masks which contain
    each other do so on the scan too.
    """
    made = np.zeros(voxels.shape, np.uint8)
    if not label.any():
        return made
    matrix, offset = voxels.to_grid(grid)
    box = _on_scan(ndimage.find_objects((label > 0).astype(np.uint8))[0], matrix, offset, voxels.shape)
    offset = offset + matrix @ np.array([side.start for side in box])

    def holds(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
        share = np.empty([side.stop - side.start for side in box], np.float32)
        source = region.astype(np.float32)
        ndimage.affine_transform(source, matrix, offset.tolist(), output=share, order=1, mode="constant")
        return share > 0.5

    whole = holds(label > 0)
    core = whole & holds((label == 1) | (label == 3))
    necrosis = core & holds(label == 1)
    made[box] = np.select([necrosis, core, whole], [1, 3, 2], 0)
    return made


def _on_scan(
    box: Sequence[slice], matrix: NDArray[np.float64], offset: NDArray[np.float64], shape: Sequence[int]
) -> tuple[slice, slice, slice]:
    """The voxels of a scan that lie in a box of the grid, or within a voxel of it."""
    corners = np.array(list(product(*[(side.start - 1, side.stop) for side in box])))
    places = np.linalg.solve(matrix, (corners - offset).T).T
    low = np.floor(places.min(axis=0)).astype(int).tolist()
    high = np.ceil(places.max(axis=0)).astype(int).tolist()
    x, y, z = (slice(min(max(0, a), n), min(max(0, b + 1), n)) for a, b, n in zip(low, high, shape, strict=True))
    return x, y, z
