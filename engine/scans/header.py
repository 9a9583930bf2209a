"""A scan's header: its voxels and where they lie, in millimetres and RAS; nothing about left and right is guessed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from .options import Orientation

Affine = NDArray[np.float64]

MAX_VOXELS = 2**27  # of a file, all channels together
MAX_OFFSET = 64 * 2**20  # bytes before the voxels
SPACING_MM = (0.1, 20.0)
DISAGREEMENT_MM = 1.0  # how far a corner may lie apart by sform and qform, or by voxel sizes and affine
HEADER_BYTES = 540
_SINGLE_FILE = {1: b"n+1\0", 2: b"n+2\0\r\n\x1a\n"}
_UNITS = {0: (1.0, "no unit"), 1: (1e3, "metres"), 2: (1.0, "mm"), 3: (1e-3, "microns")}
_SETTLE = "settle it with --orientation"


class HeaderFault(Exception):
    """What is wrong with a header, one text a fault."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = list(faults)


@dataclass(frozen=True)
class ScanHeader:
    """What a NIfTI-1 or NIfTI-2 header says, checked."""

    shape: tuple[int, ...]  # (x, y, z), or (x, y, z, channels)
    affine: Affine  # (4, 4) voxel index -> RAS mm
    dtype: np.dtype
    offset: int  # bytes before the voxels
    slope: float
    intercept: float
    description: bytes = b""  # what the program that wrote the file says of it

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel sizes along the file's axes."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def codes(self) -> str:
        """Where the axes grow to, such as RAS or LPS; of an oblique scan the nearest."""
        return "".join(str(code) for code in nib.aff2axcodes(self.affine))


def parse_header(head: bytes, orientation: Orientation | None = None) -> ScanHeader:
    """The header at the start of a file (at least 348 bytes; NIfTI-2: 540).

    `orientation` says which of its statements counts where they are missing or contradict each other; `RAS`: the
    axes grow to the right, the front and the top, with the header's voxel sizes.

    Raises:
        HeaderFault: every fault: no NIfTI, no 3 or 4 dimensions, no numbers, too many voxels, voxel sizes beyond
            0.1 to 20 mm, no orientation, sform, qform and voxel sizes that disagree.
    """
    header = _header(head)
    shape = _shape(header)
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise HeaderFault(f"values of an unknown type ({error})") from error
    if dtype.kind not in "iuf":
        raise HeaderFault(f"values of type {dtype}, must be numbers")
    voxels = int(np.prod([int(n) for n in shape], dtype=object))
    if voxels > MAX_VOXELS:
        raise HeaderFault(f"{' x '.join(map(str, shape))} voxels, at most {MAX_VOXELS} are read")
    offset = float(header["vox_offset"])
    least = int(header["sizeof_hdr"]) + 4
    if not (np.isfinite(offset) and 0 <= offset <= MAX_OFFSET):
        raise HeaderFault(f"its voxels start at byte {offset:g}, allowed are {least} to {MAX_OFFSET}")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:
        slope, intercept = 1.0, 0.0
    elif not np.isfinite(intercept):
        raise HeaderFault(f"its values are scaled by {slope:g} plus {intercept:g}, which is no number")
    affine = _affine(header, shape[:3], orientation)
    description = bytes(header["descrip"].tobytes()).rstrip(b"\0")
    return ScanHeader(shape, affine, dtype, max(int(offset), least), slope, intercept, description)


def _header(head: bytes) -> nib.Nifti1Header:
    if len(head) < 348:
        raise HeaderFault("unreadable (no NIfTI file: too short for a header)")
    kinds = {348: (nib.Nifti1Header, 1), 540: (nib.Nifti2Header, 2)}
    for order in "<>":
        kind, version = kinds.get(struct.unpack(f"{order}i", head[:4])[0], (None, 0))
        if kind is None or len(head) < (348 if version == 1 else 540):
            continue
        header = kind(head[: 348 if version == 1 else 540], endianness=order, check=False)
        if bytes(header["magic"].tobytes())[:3] != _SINGLE_FILE[version][:3]:
            break
        return header
    raise HeaderFault("unreadable (no NIfTI file; .nii and .nii.gz are read, no pairs of .hdr and .img)")


def _shape(header: nib.Nifti1Header) -> tuple[int, ...]:
    count = int(header["dim"][0])
    shape = [int(n) for n in header["dim"][1 : 1 + count]] if 1 <= count <= 7 else []
    if not shape or min(shape) < 1:
        raise HeaderFault(f"unreadable (its header has the dimensions {header['dim'].tolist()})")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) == 5 and shape[3] == 1:  # a vector's components, kept in the fifth dimension
        del shape[3]
    if not 3 <= len(shape) <= 4:
        text = " x ".join(map(str, shape))
        raise HeaderFault(f"{len(shape)}-dimensional ({text}), must be one 3-dimensional volume")
    return tuple(shape)


def _affine(header: nib.Nifti1Header, shape: tuple[int, ...], orientation: Orientation | None) -> Affine:
    unit, unit_name = _UNITS.get(int(header["xyzt_units"]) & 7, (1.0, "an unknown unit"))
    sizes = np.asarray(header["pixdim"][1:4], np.float64) * unit
    sform = _in_mm(_sform(header), unit) if int(header["sform_code"]) > 0 or orientation == "sform" else None
    qform, unreadable = None, None
    if int(header["qform_code"]) > 0 or orientation == "qform":
        try:
            qform = _in_mm(_qform(header), unit)
        except (HeaderDataError, ValueError) as error:
            unreadable = f"its qform cannot be read ({error}); {_SETTLE} sform or RAS"
    chosen = {"sform": sform, "qform": qform, "RAS": np.diag([*sizes, 1.0]), None: None}[orientation]
    affine = sform if sform is not None else qform
    text = unreadable or _unsettled(sform, qform, sizes, shape)
    if text is not None:
        if chosen is None:
            raise HeaderFault(text)
        affine = chosen
    assert affine is not None
    _require_plausible(affine, unit_name)
    return affine


def _qform(header: nib.Nifti1Header) -> Affine:
    """The qform, where a qfac of 0 means 1 as the standard says."""
    fixed = header.copy()
    fixed["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
    with np.errstate(all="ignore"):
        return np.asarray(fixed.get_qform(), np.float64)


def _sform(header: nib.Nifti1Header) -> Affine:
    rows = [np.asarray(header[name], np.float64).reshape(4) for name in ("srow_x", "srow_y", "srow_z")]
    return np.array([*rows, [0, 0, 0, 1]])


def _in_mm(affine: Affine, unit: float) -> Affine:
    scaled = np.array(affine, np.float64)
    scaled[:3] *= unit
    return scaled


def _unsettled(sform: Affine | None, qform: Affine | None, sizes: Affine, shape: tuple[int, ...]) -> str | None:
    """What the header leaves open, None where it is clear."""
    if sform is None and qform is None:
        return (
            f"no orientation (qform_code and sform_code 0), so left and right are unknown; {_SETTLE} RAS (or sform, "
            "qform where you know that it is right)"
        )
    for name, affine in (("sform", sform), ("qform", qform)):
        if affine is not None and not (np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12):
            others = [other for other in ("sform", "qform", "RAS") if other != name]
            return f"its affine is not invertible ({name}); {_SETTLE} {' or '.join(others)}"
    if sform is not None and qform is not None and (apart := _apart(sform, qform, shape)) > DISAGREEMENT_MM:
        return (
            f"qform and sform disagree by {apart:.3g} mm: qform {_codes(qform)} with voxels of {_sizes(qform)} mm, "
            f"sform {_codes(sform)} with {_sizes(sform)} mm; {_SETTLE} sform or qform"
        )
    if sform is not None:
        steps = np.linalg.norm(sform[:3, :3], axis=0)
        off = np.abs(steps - sizes) * np.maximum(np.array(shape) - 1, 1)
        if not (off <= DISAGREEMENT_MM).all():
            return (
                f"its voxel sizes {_text(sizes)} mm do not fit the affine (sform), which has {_text(steps)} mm; "
                f"{_SETTLE} sform, or qform or RAS for the voxel sizes"
            )
        if (sheared := _apart(sform, _unsheared(sform), shape)) > DISAGREEMENT_MM:
            return (
                f"its sform is sheared by {sheared:.3g} mm, axes must be perpendicular; {_SETTLE} qform, sform or RAS"
            )
    return None


def _apart(one: Affine, other: Affine, shape: tuple[int, ...]) -> float:
    """How far the corners of the two grids lie apart, in mm."""
    return float(np.abs(corners(one, shape) - corners(other, shape)).max())


def corners(affine: Affine, shape: tuple[int, ...]) -> Affine:
    """(8, 3): the centres of the corner voxels in mm."""
    index = np.stack(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij"), axis=-1).reshape(-1, 3)
    return index @ affine[:3, :3].T + affine[:3, 3]


def _unsheared(affine: Affine) -> Affine:
    """The nearest affine with perpendicular axes and the same voxel sizes."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    u, _, vt = np.linalg.svd(affine[:3, :3] / steps)
    straight = affine.copy()
    straight[:3, :3] = (u @ vt) * steps
    return straight


def _require_plausible(affine: Affine, unit_name: str) -> None:
    low, high = SPACING_MM
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise HeaderFault("its affine is not invertible")
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if (steps < low * 0.999).any() or (steps > high * 1.001).any():
        raise HeaderFault(
            f"its voxel size is {_text(steps)} mm (its header's unit: {unit_name}), allowed are {low:g} to {high:g} "
            "mm; correct the unit (xyzt_units) or the voxel sizes"
        )


def _codes(affine: Affine) -> str:
    return "".join(str(code) for code in nib.aff2axcodes(affine))


def _sizes(affine: Affine) -> str:
    return _text(np.linalg.norm(affine[:3, :3], axis=0))


def _text(sizes: Affine) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)
