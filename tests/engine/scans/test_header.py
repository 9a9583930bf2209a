"""Geometry is read as SimpleITK reads it (nnU-Net's reader), or refused; measure and train see the same place."""

from __future__ import annotations

import gzip
import itertools
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sbldm.engine.scans.bounded import UnusableFileError, read_regular
from sbldm.engine.scans.header import HeaderFault
from sbldm.engine.scans.labels import LabelMap
from sbldm.engine.scans.options import ReadOptions
from sbldm.engine.scans.placement import Cloud, RasGrid
from sbldm.engine.scans.read import decode
from sbldm.engine.scans.resample import GridSampler

SHAPE = (14, 11, 9)
ORDERS = [np.array(p) for p in itertools.permutations(range(3))]
BRATS = LabelMap({0: 0, 1: 1, 2: 2, 4: 3}, "names")


def blob() -> np.ndarray:
    """A lump that lies differently along each axis."""
    label = np.zeros(SHAPE, np.uint8)
    label[8:12, 2:6, 4:8] = 1
    return label


def scan_affine(order: np.ndarray, signs: tuple[int, ...], spacing: tuple[float, ...], angles: tuple[float, ...]):
    """(4, 4): axes permuted, flipped, then turned about x, y and z."""
    turn = np.eye(3)
    for axis, degrees in enumerate(angles):
        i, j = (k for k in range(3) if k != axis)
        a, step = np.deg2rad(degrees), np.eye(3)
        step[i, i] = step[j, j] = np.cos(a)
        step[i, j], step[j, i] = -np.sin(a), np.sin(a)
        turn = step @ turn
    matrix = np.eye(4)
    matrix[:3, :3] = turn @ np.eye(3)[:, order] @ np.diag(np.array(signs) * spacing)
    matrix[:3, 3] = (-12.5, 30.25, 7.0)
    return matrix


def header_bytes(matrix: np.ndarray, sform: int, qform: int, units: int, array: np.ndarray | None = None) -> bytes:
    """A file whose numbers stand in this unit, `matrix` being in mm."""
    scale = {0: 1.0, 1: 1e-3, 2: 1.0, 3: 1e3}[units]
    stored = matrix.copy()
    stored[:3] *= scale
    image = nib.Nifti1Image(blob() if array is None else array, stored)
    image.set_sform(stored, sform)
    image.set_qform(stored, qform)
    image.header["xyzt_units"] = units
    return image.to_bytes()


headers = st.tuples(
    st.sampled_from(ORDERS),
    st.tuples(*[st.sampled_from((-1, 1))] * 3),
    st.tuples(*[st.floats(0.5, 6)] * 3),
    st.one_of(st.just((0.0, 0.0, 0.0)), st.tuples(*[st.floats(-50, 50)] * 3)),
    st.sampled_from([(s, q) for s in (0, 1, 2, 4) for q in (0, 1, 2)]),
    st.sampled_from([0, 1, 2, 3]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=headers)
def test_places_are_those_of_simpleitk_or_refused(tmp_path: Path, drawn: tuple) -> None:
    order, signs, spacing, angles, (sform, qform), units = drawn
    matrix = scan_affine(order, signs, spacing, angles)
    content = header_bytes(matrix, sform, qform, units)
    if sform == qform == 0:
        with pytest.raises(HeaderFault, match="no orientation"):
            decode(content, ReadOptions())
        return
    header, array = decode(content, ReadOptions())
    path = tmp_path / "scan.nii"
    path.write_bytes(content)
    image = sitk.ReadImage(str(path))
    centroid = np.argwhere(array > 0).mean(0)
    theirs = np.array(image.TransformContinuousIndexToPhysicalPoint(centroid.tolist())) * (-1, -1, 1)
    ours = header.affine[:3, :3] @ centroid + header.affine[:3, 3]
    np.testing.assert_allclose(ours, theirs, atol=0.02)
    np.testing.assert_allclose(header.spacing_mm, image.GetSpacing(), rtol=1e-3)
    np.testing.assert_allclose(header.voxel_ml, np.prod(spacing) / 1000, rtol=1e-3)


@settings(max_examples=40, deadline=None)
@given(drawn=headers)
def test_measured_is_trained(drawn: tuple) -> None:
    order, signs, _, angles, _, units = drawn
    matrix = scan_affine(order, signs, (3.0, 3.5, 4.0), angles)
    array = np.kron(blob(), np.ones((2, 2, 2), np.uint8))
    header, label = decode(header_bytes(matrix, 1, 1, units, array), ReadOptions())
    grid = RasGrid.of(header.affine, label.shape)
    cloud = Cloud(grid, grid.turn(label) > 0)
    sampler = GridSampler(label.shape, header.affine, (64, 64, 64), (3.0, 3.0, 3.0))
    trained = np.argwhere(sampler.label(sampler.source.turn(label), 2)) - 31.5
    assert np.abs(cloud.mean_mm - trained.mean(0) * 3).max() < 0.01 * 192
    low, high = cloud.edges_mm()
    assert np.abs((high - low) - (np.ptp(trained, axis=0) + 1) * 3).max() < 9


def plain_affine(spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> np.ndarray:
    return scan_affine(ORDERS[0], (1, 1, 1), spacing, (0, 0, 0))


def changed(content: bytes, **fields: object) -> bytes:
    header = nib.Nifti1Header(content[:348])
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + content[348:]


def test_left_and_right_that_contradict_each_other_name_both_and_the_option() -> None:
    image = nib.Nifti1Image(blob(), plain_affine())
    image.set_sform(plain_affine(), 2)
    image.set_qform(np.diag([-1.0, 1, 1, 1]), 1)
    content = image.to_bytes()
    with pytest.raises(HeaderFault, match=r"qform LAS .* sform RAS .*--orientation") as caught:
        decode(content, ReadOptions())
    assert "mm" in str(caught.value)
    assert decode(content, ReadOptions(orientation="sform"))[0].codes == "RAS"
    assert decode(content, ReadOptions(orientation="qform"))[0].codes == "LAS"


def test_without_codes_the_user_says_that_axes_are_ras() -> None:
    content = header_bytes(scan_affine(ORDERS[0], (-1, -1, 1), (1, 2, 3), (0, 0, 0)), 0, 0, 2)
    header, _ = decode(content, ReadOptions(orientation="RAS"))
    assert header.codes == "RAS"
    assert header.spacing_mm == pytest.approx((1, 2, 3))


def test_options_change_nothing_that_is_settled() -> None:
    content = header_bytes(scan_affine(ORDERS[3], (-1, 1, -1), (1, 2, 3), (0, 0, 0)), 1, 1, 2)
    codes = {decode(content, ReadOptions(orientation=o))[0].codes for o in (None, "sform", "qform", "RAS")}  # type: ignore[arg-type]
    assert len(codes) == 1


def test_a_qform_that_cannot_be_read_is_settled_by_the_sform() -> None:
    content = changed(header_bytes(plain_affine(), 1, 1, 2), quatern_b=3.0)
    for choice in ("sform", "RAS"):
        assert decode(content, ReadOptions(orientation=choice))[0].codes == "RAS"


def test_half_a_millimetre_between_sform_and_qform_is_no_contradiction() -> None:
    image = nib.Nifti1Image(blob(), plain_affine())
    moved = plain_affine()
    moved[0, 3] += 0.5
    image.set_sform(plain_affine(), 1)
    image.set_qform(moved, 1)
    assert decode(image.to_bytes(), ReadOptions())[0].codes == "RAS"


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"pixdim": [1, 2, 2, 2, 0, 0, 0, 0], "qform_code": 0}, "voxel sizes"),
        ({"srow_x": [0, 0, 0, 0]}, "not invertible"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "not invertible"),
        ({"srow_x": [1, 0.5, 0, 0], "qform_code": 0, "pixdim": [1, 1, 1.118, 1, 0, 0, 0, 0]}, "sheared"),
        ({"dim": [2, 14, 99, 1, 1, 1, 1, 1]}, "2-dimensional"),
        ({"dim": [0, 14, 11, 9, 1, 1, 1, 1]}, "dimensions"),
        ({"dim": [3, 14, -11, 9, 1, 1, 1, 1]}, "dimensions"),
        ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, "voxels, at most"),
        ({"datatype": 128, "bitpix": 24}, "must be numbers"),
        ({"datatype": 7777}, "unknown type"),
        ({"vox_offset": np.nan}, "start at byte"),
        ({"quatern_b": 3.0}, "qform cannot be read"),
        ({"scl_slope": 2.0, "scl_inter": np.inf}, "no number"),
        ({"magic": b"ni1"}, "no NIfTI"),
    ],
)
def test_headers_that_cannot_be_used_say_why(fields: dict[str, object], named: str) -> None:
    with pytest.raises(HeaderFault, match=named):
        decode(changed(header_bytes(plain_affine(), 1, 1, 2), **fields), ReadOptions())


@pytest.mark.parametrize(("size", "units"), [(0.004, 2), (4000.0, 2), (0.004, 0), (1.0, 1), (25.0, 2)])
def test_implausible_voxels_name_size_and_unit(size: float, units: int) -> None:
    content = header_bytes(plain_affine((size, size, size)), 1, 1, 2)
    with pytest.raises(HeaderFault, match=r"voxel size is .* mm .*unit"):
        decode(changed(content, xyzt_units=units), ReadOptions())


@pytest.mark.parametrize("shape", [(*SHAPE, 1), (*SHAPE, 1, 1), (*SHAPE, 1, 1, 1)])
def test_singletons_are_no_dimensions(shape: tuple[int, ...]) -> None:
    header, array = decode(header_bytes(plain_affine(), 1, 1, 2, blob().reshape(shape)), ReadOptions())
    assert header.shape == array.shape == SHAPE


def test_scaling_big_endian_nifti2_and_gzip_members_are_read() -> None:
    matrix = plain_affine()
    two = nib.Nifti2Image(blob(), matrix)
    two.set_sform(matrix, 1)
    assert np.array_equal(decode(two.to_bytes(), ReadOptions())[1], blob())
    big = nib.Nifti1Image(blob().astype(">i2"), matrix, nib.Nifti1Header(endianness=">"))
    big.set_sform(matrix, 1)
    assert np.array_equal(decode(big.to_bytes(), ReadOptions())[1], blob())
    plain = changed(header_bytes(matrix, 1, 1, 2), scl_slope=2.0, scl_inter=1.0)
    members = gzip.compress(plain[:500]) + gzip.compress(plain[500:])
    assert np.array_equal(decode(members, ReadOptions())[1], blob() * 2.0 + 1)


@pytest.mark.parametrize("cut", [10, 200, 352, 700])
def test_truncated_files_are_told(cut: int) -> None:
    content = header_bytes(plain_affine(), 1, 1, 2)
    for damaged in (content[:cut], gzip.compress(content)[: cut // 10], gzip.compress(content[:cut])):
        with pytest.raises((HeaderFault, UnusableFileError), match="unreadable"):
            decode(damaged, ReadOptions())


def test_a_bomb_is_stopped_after_its_voxels() -> None:
    content = header_bytes(plain_affine(), 1, 1, 2) + bytes(200 * 2**20)
    with pytest.raises(UnusableFileError, match="more bytes than its header says"):
        decode(gzip.compress(content, 1), ReadOptions())


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=600), st.integers(0, 347))
def test_random_bytes_in_a_header_are_refused_or_read(noise: bytes, at: int) -> None:
    content = bytearray(header_bytes(plain_affine(), 1, 1, 2))
    content[at : at + len(noise)] = noise
    try:
        header, array = decode(bytes(content), ReadOptions())
    except (HeaderFault, UnusableFileError):
        return
    assert array.shape == header.shape
    assert np.isfinite(header.affine).all()


def test_pipes_devices_and_folders_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    for path in (tmp_path / "pipe.nii", Path("/dev/zero"), tmp_path):
        with pytest.raises(UnusableFileError, match="no regular file"):
            read_regular(path)
    (tmp_path / "link.nii").symlink_to("link.nii")
    with pytest.raises(UnusableFileError, match="unreadable"):
        read_regular(tmp_path / "link.nii")
    (tmp_path / "large").write_bytes(bytes(100))
    with pytest.raises(UnusableFileError, match="at most 99"):
        read_regular(tmp_path / "large", 99)
