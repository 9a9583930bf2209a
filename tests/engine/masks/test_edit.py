"""Masks moved and scaled by numbers."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.masks.edit import EditFault, edited_mask
from sbldm.engine.output.measure import measure_tumour

GRID = Grid((48, 48, 32), (4.0, 4.0, 4.8))


@pytest.fixture(scope="module")
def mask() -> NDArray[np.uint8]:
    """An ellipsoid whose tissues lie off its middle."""
    at = np.stack(np.meshgrid(*(np.arange(n) for n in GRID.shape), indexing="ij"), -1) * GRID.spacing_mm
    far = np.linalg.norm((at - [70, 110, 80]) / [1.3, 1.0, 0.9], axis=-1)
    near = np.linalg.norm(at - [76, 112, 82], axis=-1)
    return np.select([(near < 8) & (far < 24), (near < 15) & (far < 24), far < 24], [1, 3, 2], 0).astype(np.uint8)


def test_no_wish_leaves_the_mask_as_it_is(mask: NDArray[np.uint8]) -> None:
    assert edited_mask(mask, {}, GRID) is mask


def test_a_place_moves_it_and_leaves_the_rest(mask: NDArray[np.uint8]) -> None:
    own = measure_tumour(mask, GRID.spacing_mm)
    moved = measure_tumour(edited_mask(mask, {"x": 0.6, "z": 0.45}, GRID), GRID.spacing_mm)
    assert (moved.x, moved.z) == pytest.approx((0.6, 0.45), abs=0.01)
    assert (moved.y, moved.w, moved.d) == pytest.approx((own.y, own.w, own.d), abs=0.025)
    assert moved.volume_ml == own.volume_ml
    assert moved.ncr_share == own.ncr_share
    assert moved.sphericity == pytest.approx(own.sphericity, abs=0.05)


def test_sides_scale_their_axes_and_a_volume_the_others(mask: NDArray[np.uint8]) -> None:
    own = measure_tumour(mask, GRID.spacing_mm)
    wide = measure_tumour(edited_mask(mask, {"w": 1.4 * own.w}, GRID), GRID.spacing_mm)
    assert wide.volume_ml == pytest.approx(1.4 * own.volume_ml, rel=0.01)
    assert (wide.w, wide.h) == pytest.approx((1.4 * own.w, own.h), abs=0.03)
    twice = {"w": own.w, "volume_ml": 2 * own.volume_ml}
    deep = measure_tumour(edited_mask(mask, twice, GRID), GRID.spacing_mm)
    assert deep.volume_ml == pytest.approx(2 * own.volume_ml, rel=0.01)
    assert deep.h / own.h > 1.25


def test_shares_leave_the_other_tissues_in_their_proportion(mask: NDArray[np.uint8]) -> None:
    own = measure_tumour(mask, GRID.spacing_mm)
    made = measure_tumour(edited_mask(mask, {"ncr_share": 0.3}, GRID), GRID.spacing_mm)
    assert made.ncr_share == pytest.approx(0.3, abs=2e-3)
    assert made.ed_share / made.et_share == pytest.approx(own.ed_share / own.et_share, rel=0.05)


def test_a_tissue_that_the_mask_lacks_can_be_asked_for(mask: NDArray[np.uint8]) -> None:
    oedema = np.where(mask > 0, 2, 0).astype(np.uint8)
    made = measure_tumour(
        edited_mask(oedema, {"ncr_share": 0.1, "ed_share": 0.6, "et_share": 0.3}, GRID), GRID.spacing_mm
    )
    assert (made.ncr_share, made.et_share) == pytest.approx((0.1, 0.3), abs=2e-3)
    with pytest.raises(EditFault, match=r"ed_share: 0.5: the mask holds no other tissue"):
        edited_mask(oedema, {"ed_share": 0.5}, GRID)
