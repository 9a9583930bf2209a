"""The volumes of a case as a page embeds them: 256 greys, cut to the brain, coarser where the budget asks for it."""

from __future__ import annotations

import base64
import gzip
import io
import math
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ..blocks import block_means
from ..bundle.manifest import SEGMENTATION
from ..folder import Folder
from ..output.layouts import Layout
from ..output.preview import Scan, draw_sheet, widest_cuts
from ..run.description import RunDescription
from ..run.volumes import CaseOnDisk, read_case

MAX_CASE_BYTES = 2_500_000
"""What a case may add to the page: volumes, preview and text."""
_TEXT_BYTES = 40_000  # more than the text of a case
_GREYS = 255
_TOP_PERCENTILE, _WINDOW_PERCENTILE = 99.9, 99.7
_LEAST_RATIO = 0.2  # of gzip on brains: a grid that is too fine even so is not tried
_MARGIN_MM = 6.0
_PREVIEW_PIXELS = (1100, 400)  # noise of that size still leaves room for volumes
_GZIP_LEVEL = 6
_VOXELS_START = 352  # of a NIfTI-1 file without extensions


@dataclass(frozen=True)
class CaseVolumes:
    """What is embedded of one case."""

    files: dict[str, str]  # role -> base64 of a .nii.gz
    windows: dict[str, float]  # modality -> value shown white
    coarser: int  # 1: every voxel; n: blocks of n x n x n voxels
    tumour_mm: tuple[float, float, float]  # where the crosshair starts, RAS
    preview: str  # base64 of a PNG

    @property
    def bytes(self) -> int:
        """Size on the page, with an allowance for the text."""
        return sum(map(len, self.files.values())) + len(self.preview) + _TEXT_BYTES


def embed_case(folder: Folder, run: RunDescription, sample: int, caption: str) -> CaseVolumes:
    """Read the files of a sample and make of them what a page holds, within `MAX_CASE_BYTES`.

    Raises:
        UnreadableError: its files are not those of this run.
        OSError: they cannot be read.
    """
    layout = run.layout()
    case = read_case(folder, run, sample)
    spacing = tuple(float(s) for s in np.diag(case.affine)[:3])
    preview = _preview(Scan(case.image, case.label, spacing), layout, caption, run.origin)  # type: ignore[arg-type]
    case = _cut(case, spacing)
    made, coarser = None, _first_guess(case)
    while made is None or (made.bytes > MAX_CASE_BYTES and coarser <= max(case.label.shape)):
        made = _encode(_coarsened(case, coarser), run.bundle.modalities, coarser, preview)
        coarser += 1
    return made


def _cut(case: CaseOnDisk, spacing: tuple[float, ...]) -> CaseOnDisk:
    """The case cut to the box of its brain (the largest piece of what is not 0) and its mask, with a margin."""
    pieces, count = ndimage.label((case.image > 0).any(axis=0))  # pyright: ignore[reportGeneralTypeIssues]
    if not count:
        return case
    largest = int(np.bincount(pieces.ravel())[1:].argmax()) + 1
    filled = (pieces == largest) | (case.label > 0)
    found = ndimage.find_objects(filled.astype(np.uint8))
    margins = [round(_MARGIN_MM / s) for s in spacing]
    ends = zip(found[0], margins, filled.shape, strict=True)
    box = tuple(slice(max(part.start - m, 0), min(part.stop + m, n)) for part, m, n in ends)
    affine = case.affine.copy()
    affine[:3, 3] += np.diag(affine)[:3] * [part.start for part in box]
    return CaseOnDisk(case.image[(slice(None), *box)], case.label[box], affine)


def _first_guess(case: CaseOnDisk) -> int:
    raw = case.image.size * 4 / 3 * _LEAST_RATIO
    return max(1, math.ceil((raw / MAX_CASE_BYTES) ** (1 / 3)))


def _coarsened(case: CaseOnDisk, blocks: int) -> CaseOnDisk:
    """Means of blocks of voxels, and the class that most of a block has."""
    if blocks == 1:
        return case
    classes, sides = range(int(case.label.max(initial=0)) + 1), (blocks,) * 3
    shares = [block_means((case.label == value).astype(np.float32), sides) for value in classes]
    affine = case.affine.copy()
    affine[:3, 3] += np.diag(affine)[:3] * (blocks - 1) / 2
    affine[:3, :3] *= blocks
    image = np.stack([block_means(modality, sides) for modality in case.image])
    return CaseOnDisk(image, np.argmax(shares, axis=0).astype(np.uint8), affine)


def _encode(case: CaseOnDisk, modalities: tuple[str, ...], coarser: int, preview: str) -> CaseVolumes:
    files, windows = {}, {}
    for name, volume in zip(modalities, case.image, strict=True):
        foreground = volume[volume > 0]
        top, white = np.percentile(foreground, [_TOP_PERCENTILE, _WINDOW_PERCENTILE]) if foreground.size else (1.0, 1.0)
        greys = np.clip(np.rint(volume * (_GREYS / top)), 0, _GREYS).astype(np.uint8)
        files[name] = _nifti(greys, case.affine, float(top) / _GREYS)
        windows[name] = round(float(white), 2)
    files[SEGMENTATION] = _nifti(case.label, case.affine, 1.0)
    return CaseVolumes(files, windows, coarser, _centre_mm(case), preview)


def _centre_mm(case: CaseOnDisk) -> tuple[float, float, float]:
    """Where the tumour is largest along each axis; the centre where there is none."""
    place = case.affine @ [*widest_cuts(case.label), 1]
    return round(float(place[0]), 2), round(float(place[1]), 2), round(float(place[2]), 2)


def _nifti(voxels: NDArray[np.uint8], affine: NDArray[np.float64], slope: float) -> str:
    header = nib.Nifti1Header()
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(np.uint8)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = slope, 0
    header["magic"], header["vox_offset"] = b"n+1", _VOXELS_START
    plain = header.binaryblock.ljust(_VOXELS_START, b"\0") + voxels.tobytes("F")
    return base64.b64encode(gzip.compress(plain, _GZIP_LEVEL, mtime=0)).decode()


def _preview(scan: Scan, layout: Layout, caption: str, origin: str) -> str:
    sheet = draw_sheet([(caption, scan)], layout, origin)
    sheet.thumbnail(_PREVIEW_PIXELS, Image.Resampling.LANCZOS)
    data = io.BytesIO()
    sheet.save(data, "PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode()
