"""Files of a scan with a part of their voxels replaced."""

from __future__ import annotations

import gzip
import io

import nibabel as nib
import numpy as np
import pytest
from sbldm.engine.output.scan_files import ScanFile

AFFINE = np.array([[0, -2.0, 0, 11], [1.5, 0, 0, -7], [0, 0, 3.0, 2], [0, 0, 0, 1]])
KINDS = [(np.int16, 1.0), (np.uint8, 0.5), (np.float32, 1.0)]
BOX = slice(1, 4), slice(0, 3), slice(2, 4)


def scan(kind: type, version: type, endianness: str, slope: float, extra: bytes) -> tuple[ScanFile, bytes]:
    """A file with odd header fields, an extension, scaling, and bytes behind its voxels."""
    header = version(endianness=endianness)
    header.set_data_shape((5, 4, 6))
    header.set_data_dtype(np.dtype(kind).newbyteorder(endianness))
    header.set_sform(AFFINE, 2)
    header.set_qform(AFFINE, 1)
    header["descrip"], header["scl_slope"], header["scl_inter"] = b"as it was", slope, 3 if slope != 1 else 0
    header["magic"] = b"n+1" if version is nib.Nifti1Header else b"n+2"
    size = 348 if version is nib.Nifti1Header else 540
    header["vox_offset"] = size + 4 + 32
    dtype = header.get_data_dtype()
    voxels = np.random.default_rng(1).integers(0, 200, 120).astype(dtype).tobytes()
    plain = header.binaryblock + b"\1\0\0\0" + b"extension".ljust(32, b"\0") + voxels + extra
    return ScanFile(plain, (5, 4, 6), dtype.str, size + 36, slope, 3.0 if slope != 1 else 0.0), plain


@pytest.mark.parametrize("endianness", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("version", [nib.Nifti1Header, nib.Nifti2Header], ids=["nifti1", "nifti2"])
@pytest.mark.parametrize(("kind", "slope"), KINDS, ids=["i2", "u1", "f4"])
def test_nothing_but_the_changed_voxels_and_the_description_differs(kind, slope, version, endianness: str) -> None:
    file, plain = scan(kind, version, endianness, slope, b"behind")
    values, changed = file.values(), np.zeros((3, 3, 2), bool)
    changed[0, 1, 1] = changed[2, 2, 0] = True
    wanted = np.full((3, 3, 2), 77.0, np.float32)
    made = gzip.decompress(file.replaced(BOX, changed, wanted).compressed("SYNTHETIC"))
    again = ScanFile(made, file.shape, file.kind, file.offset, file.slope, file.intercept).values()
    differ = values != again
    assert set(map(tuple, np.argwhere(differ).tolist())) <= {(1, 1, 3), (3, 2, 2)}
    assert again[1, 1, 3] == again[3, 2, 2] == 77
    start = 148 if version is nib.Nifti1Header else 240
    assert made[start : start + 10] == b"SYNTHETIC\0"
    assert made[:start] == plain[:start]
    assert made[start + 80 : file.offset] == plain[start + 80 : file.offset]
    assert made.endswith(b"behind")


@pytest.mark.parametrize("version", [nib.Nifti1Header, nib.Nifti2Header], ids=["nifti1", "nifti2"])
def test_labels_lie_where_the_scan_lies(version) -> None:
    file, _ = scan(np.int16, version, "<", 0.5, b"")
    label = np.random.default_rng(2).integers(0, 4, (5, 4, 6)).astype(np.uint8)
    kind = nib.Nifti1Image if version is nib.Nifti1Header else nib.Nifti2Image
    made = kind.from_stream(io.BytesIO(gzip.decompress(file.of_labels(label, "SYNTHETIC"))))
    assert np.array_equal(np.asarray(made.dataobj), label)
    assert np.array_equal(made.affine, AFFINE)
    assert made.get_data_dtype() == np.uint8
    assert made.header["descrip"].item() == b"SYNTHETIC"


def test_values_beyond_the_type_are_held_at_its_ends() -> None:
    file, _ = scan(np.uint8, nib.Nifti1Header, "<", 1.0, b"")
    changed = np.ones((3, 3, 2), bool)
    values = np.full((3, 3, 2), 1e6, np.float32)
    values[0] = -5
    made = gzip.decompress(file.replaced(BOX, changed, values).compressed(""))
    again = ScanFile(made, file.shape, file.kind, file.offset, 1.0, 0.0).values()[BOX]
    assert (again[0] == 0).all()
    assert (again[1:] == 255).all()
