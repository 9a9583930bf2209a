"""Outlines of masks hold the centres of their pixels and no others, told by two rasterisers of others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon2mask

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from sbldm.engine.dicom.contours import Ring, outlines

MASKS = arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=14))


def filled(rings: list[Ring], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels whose centre lies in one polygon; two rasterisers must agree, and no pixel may lie in two."""
    count = np.sum([np.zeros(shape, bool), *(polygon2mask(shape, ring) for ring in rings)], axis=0)
    centres = np.argwhere(np.ones(shape, bool))
    other = [Polygon(np.vstack([ring, ring[:1]]), closed=True).contains_points(centres) for ring in rings]
    assert np.array_equal(np.any(other, axis=0).reshape(shape) if other else count > 0, count > 0)
    assert count.max() <= 1
    return count > 0


def area(ring: Ring) -> float:
    rows, columns = ring.T
    return abs(rows @ np.roll(columns, -1) - columns @ np.roll(rows, -1)) / 2


@settings(max_examples=200, deadline=None)
@given(mask=MASKS)
def test_polygons_hold_the_pixels_of_the_mask_and_no_others(mask: NDArray[np.bool_]) -> None:
    rings = outlines(mask)
    assert np.array_equal(filled(rings, mask.shape), mask)
    _, regions = ndimage.label(mask)  # pyright: ignore[reportGeneralTypeIssues]
    assert len(rings) == regions


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), holes=st.floats(0, 0.2))
def test_holes_are_left_out_of_their_region(seed: int, holes: float) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((24, 31))
    mask = (np.hypot(rows - 11.5, columns - 15) < 11) & (rng.random((24, 31)) >= holes)
    assert np.array_equal(filled(outlines(mask), mask.shape), mask)


def test_channels_lie_within_their_region() -> None:
    mask = np.ones((12, 24), bool)
    mask[5, 4:6] = mask[5, 10:12] = mask[4:7, 18] = False
    (ring,) = outlines(mask)
    ends = np.roll(ring, -1, axis=0)
    channels = [(a, b) for a, b in zip(ring, ends, strict=True) if a[0] == b[0] and a[0] % 0.5 != 0]
    assert len(channels) == 2 * 3  # there and back, a hole each
    for a, b in channels:
        left, right = sorted((a[1], b[1]))
        assert mask[round(a[0]), int(np.ceil(left)) : int(np.floor(right)) + 1].all()


def test_the_area_of_a_region_is_that_of_its_pixels_but_for_its_corners() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:12, 3:25] = True
    mask[5:8, 6:10] = mask[6, 14:20] = False
    (ring,) = outlines(mask)
    # four corners of the outline lack an eighth of a pixel each, those of the holes have it more
    assert area(ring) == pytest.approx(mask.sum() - 0.5 + 2 * 0.5)


def test_straight_sides_have_no_points_in_between() -> None:
    (ring,) = outlines(np.ones((5, 400), bool))
    assert len(ring) == 8


def test_a_mask_of_nothing_has_no_outline() -> None:
    assert outlines(np.zeros((4, 4), bool)) == []
