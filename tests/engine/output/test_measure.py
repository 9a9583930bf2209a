"""Measuring against bodies whose numbers are known, and against PyRadiomics on real cases."""

from __future__ import annotations

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sbldm.engine.conditions.columns import BINARY_COLUMNS, COLUMNS
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.output.measure import measure_tumour

REAL = Path(__file__).parents[4] / "shared" / "data" / "brats2021"


def ball(shape: tuple[int, int, int], spacing: tuple[float, float, float], centre: tuple, radius: float) -> np.ndarray:
    grids = np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) <= radius**2


def test_a_ball_on_an_anisotropic_grid() -> None:
    shape, spacing = (60, 50, 40), (1.0, 1.2, 2.0)
    mask = ball(shape, spacing, (35.0, 24.0, 46.0), 18.0)
    measured = measure_tumour(mask.astype(np.uint8) * 2, spacing)
    assert measured.volume_ml == pytest.approx(4 / 3 * math.pi * 18**3 / 1000, rel=0.01)
    assert 1 < measured.surface_cm2 / (4 * math.pi * 18**2 / 100) < 1.15  # voxel steps make it larger
    assert 0.87 < measured.sphericity < 1
    assert (measured.x, measured.y, measured.z) == pytest.approx((35 / 60, 24 / 60, 46 / 80), abs=0.003)
    assert (measured.w, measured.h, measured.d) == pytest.approx((36 / 60, 36 / 60, 36 / 80), abs=0.03)
    assert (measured.ncr_share, measured.ed_share, measured.et_share) == (0, 1, 0)
    assert (measured.pieces, measured.largest_piece_share) == (1, 1)


def test_a_box_has_the_surface_and_volume_of_its_mesh() -> None:
    """Marching cubes bevels the edges of a box of voxels by half a voxel, and cuts its corners."""
    label = np.zeros((20, 20, 20), np.uint8)
    label[2:12, 4:12, 6:12] = 1
    measured = measure_tumour(label, (1.0, 1.0, 1.0))
    a, b, c = 10, 8, 6
    faces = 2 * ((a - 1) * (b - 1) + (b - 1) * (c - 1) + (a - 1) * (c - 1))
    edges = 4 * (a + b + c - 3) * math.sqrt(0.5)
    corners = 8 * math.sqrt(3) / 8
    assert measured.surface_cm2 * 100 == pytest.approx(faces + edges + corners, rel=1e-5)
    assert measured.volume_ml * 1000 == pytest.approx(a * b * c)
    assert (measured.x, measured.y, measured.z) == pytest.approx((7 / 20, 8 / 20, 9 / 20))
    assert (measured.w, measured.h, measured.d) == pytest.approx((a / 20, b / 20, c / 20))
    assert measured.inside_brain != measured.inside_brain  # no brain was given


def test_shares_pieces_and_brain() -> None:
    label = np.zeros((12, 12, 12), np.uint8)
    label[1:3, 1:3, 1:3] = 1
    label[3, 3, 3] = 3  # touches by a corner: the same piece
    label[8:10, 8, 8] = 2
    brain = np.zeros(label.shape, bool)
    brain[:6] = True
    measured = measure_tumour(label, (1.0, 1.0, 1.0), brain)
    assert (measured.ncr_share, measured.ed_share, measured.et_share) == pytest.approx((8 / 11, 2 / 11, 1 / 11))
    assert measured.pieces == 2
    assert measured.largest_piece_share == pytest.approx(9 / 11)
    assert measured.inside_brain == pytest.approx(9 / 11)


def test_another_field_of_view_is_centred_on_the_scan() -> None:
    label = np.zeros((20, 20, 20), np.uint8)
    label[12:14, 9:11, 9:11] = 1
    measured = measure_tumour(label, (1.0, 1.0, 1.0), field_of_view_mm=(10.0, 40.0, 20.0))
    assert (measured.x, measured.y, measured.z) == pytest.approx((0.8, 0.5, 0.5))
    assert (measured.w, measured.h, measured.d) == pytest.approx((0.2, 0.05, 0.1))


def test_an_empty_mask_has_zero_amounts_and_no_shape() -> None:
    measured = measure_tumour(np.zeros((4, 5, 6), np.uint8), (1.0, 1.0, 1.0))
    assert (measured.volume_ml, measured.surface_cm2, measured.w, measured.pieces) == (0, 0, 0, 0)
    assert np.isnan([measured.sphericity, measured.x, measured.ncr_share, measured.largest_piece_share]).all()


def test_columns_come_in_the_order_asked_for() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[1:3, 1:3, 1:3] = 1
    measured = measure_tumour(label, (1.0, 1.0, 1.0))
    assert list(measured.as_row(COLUMNS)) == list(COLUMNS)
    assert measured.vector(BINARY_COLUMNS).tolist() == [measured.as_row(COLUMNS)[name] for name in BINARY_COLUMNS]


@pytest.mark.parametrize(
    ("label", "brain", "message"),
    [
        (np.full((3, 3, 3), 4, np.uint8), None, "value 4"),
        (np.ones((3, 3), np.uint8), None, "2 axes"),
        (np.ones((3, 3, 3), np.uint8), np.ones((3, 3, 4), bool), r"\(3, 3, 4\)"),
    ],
)
def test_what_cannot_be_measured_is_refused(label: np.ndarray, brain: np.ndarray | None, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        measure_tumour(label, (1.0, 1.0, 1.0), brain)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), filled=st.floats(0.02, 0.98))
def test_any_mask_is_measured_within_bounds(seed: int, filled: float) -> None:
    rng = np.random.default_rng(seed)
    label = np.where(rng.random((6, 5, 7)) < filled, rng.integers(1, 4, (6, 5, 7)), 0).astype(np.uint8)
    label[3, 2, 3] = 1
    measured = measure_tumour(label, (1.0, 2.0, 1.5))
    assert measured.volume_ml == pytest.approx(np.count_nonzero(label) * 3 / 1000)
    assert 0 < measured.sphericity <= 1
    assert measured.ncr_share + measured.ed_share + measured.et_share == pytest.approx(1)
    for centre, side in ((measured.x, measured.w), (measured.y, measured.h), (measured.z, measured.d)):
        assert 0 < centre < 1
        assert 0 < side <= 1


@pytest.mark.skipif(not REAL.is_dir(), reason="the real cases are not here")
@pytest.mark.parametrize("case", ["BraTS2021_00006", "BraTS2021_01481"])
def test_real_cases_agree_with_pyradiomics(case: str) -> None:
    reference = json.loads((REAL / "reference_measurements.json").read_text())["cases"][case]
    image = nib.as_closest_canonical(nib.load(REAL / case / f"{case}_seg.nii.gz"))
    label = np.asarray(image.dataobj).astype(np.uint8)
    label[label == 4] = 3
    measured = measure_tumour(label, tuple(float(s) for s in image.header.get_zooms()[:3])).as_row(COLUMNS)
    reference["volume_ml"] = reference.pop("voxel_ml")
    del reference["mesh_ml"]
    assert measured == pytest.approx(reference, rel=0.005)
