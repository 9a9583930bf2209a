from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.output.nifti import nifti_bytes, read_nifti

GRID = Grid((6, 5, 4), (1.5, 1.5, 2.4))


def volume() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1001, GRID.shape).astype(np.int16)


def test_bytes_read_back_with_affine_codes_and_description(tmp_path: Path) -> None:
    data = volume()
    path = tmp_path / "v.nii.gz"
    path.write_bytes(nifti_bytes(data, GRID.affine, "SYNTHETIC sbldm-engine " + "x" * 100))
    image = nib.load(path)
    assert image.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(image.dataobj), data)
    assert np.allclose(image.affine, GRID.affine)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    assert np.allclose(image.header.get_qform(), GRID.affine, atol=1e-5)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert bytes(image.header["descrip"]).startswith(b"SYNTHETIC sbldm-engine xxx")
    centre = GRID.affine @ [*((np.array(GRID.shape) - 1) / 2), 1]
    assert np.allclose(centre[:3], 0)


def test_gzip_holds_neither_clock_nor_name_and_equal_arrays_give_equal_bytes() -> None:
    first = nifti_bytes(volume(), GRID.affine, "d")
    assert first == nifti_bytes(np.asfortranarray(volume()), GRID.affine, "d")
    assert first[:3] == b"\x1f\x8b\x08"
    assert first[3] == 0  # no name, no extra fields
    assert first[4:8] == bytes(4)  # mtime 0
    assert len(gzip.decompress(first)) == 352 + 2 * volume().size


def test_read_turns_to_ras(tmp_path: Path) -> None:
    data = volume()
    nib.Nifti1Image(data[::-1, ::-1], np.diag([-1.5, -1.5, 2.4, 1])).to_filename(tmp_path / "lps.nii.gz")
    read, affine = read_nifti(tmp_path / "lps.nii.gz")
    assert np.array_equal(read, data)
    assert np.allclose(np.diag(affine)[:3], GRID.spacing_mm)


@pytest.mark.parametrize(
    "content",
    [b"", b"not gzip", gzip.compress(b"short", mtime=0), None],
    ids=["empty", "not gzip", "too short", "missing"],
)
def test_unreadable_files_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.nii.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"bad\.nii\.gz"):
        read_nifti(path)


def test_a_series_is_refused(tmp_path: Path) -> None:
    nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.int16), np.eye(4)).to_filename(tmp_path / "4d.nii")
    with pytest.raises(InvalidInputError, match="4 dimensions"):
        read_nifti(tmp_path / "4d.nii")
