"""Variants of masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sbldm.engine.masks.place import nearest_place, places
from sbldm.engine.masks.vary import EDITS, VariantFault, largest_piece, varied
from scipy import ndimage

from tests.support.tumours import BRAIN, LABEL, SPACING, VOXEL_ML


def pieces(label: NDArray[np.uint8]) -> int:
    return int(ndimage.label(label > 0, structure=np.ones((3, 3, 3)))[1])


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), number=st.integers(1, 1000), edits=st.sets(st.sampled_from(EDITS), min_size=1))
def test_variants_are_one_piece_inside_the_brain_and_follow_from_their_arguments(seed, number, edits) -> None:
    chosen = [edit for edit in EDITS if edit in edits]
    made = varied(LABEL, BRAIN, SPACING, seed, number, chosen)
    assert pieces(made.label) == 1
    assert not made.label[~BRAIN].any()
    again = varied(LABEL, BRAIN, SPACING, seed, number, chosen)
    assert np.array_equal(made.label, again.label)
    if "volume" not in chosen:
        assert np.count_nonzero(made.label) == np.count_nonzero(LABEL)
    if not {"volume", "necrosis"} & edits:
        assert [(made.label == k).sum() for k in (1, 2, 3)] == [(k == LABEL).sum() for k in (1, 2, 3)]


def test_each_edit_does_what_its_name_says() -> None:
    for number in range(1, 30):
        mirrored = varied(LABEL, BRAIN, SPACING, 5, number, ["mirror"])
        expected = LABEL[::-1] if mirrored.mirrored else LABEL
        centre = np.array(ndimage.center_of_mass(mirrored.label > 0)) - ndimage.center_of_mass(expected > 0)
        assert np.abs(centre).max() <= 1.01  # of a brain whose box is one voxel off the array's middle
    moved = [varied(LABEL, BRAIN, SPACING, 5, number, ["place"]) for number in range(1, 6)]
    assert len({variant.moved_mm for variant in moved}) == 5
    shift = np.array(ndimage.center_of_mass(moved[0].label > 0)) - ndimage.center_of_mass(LABEL > 0)
    assert shift * SPACING == pytest.approx(np.array(moved[0].moved_mm), abs=3)
    grown = varied(LABEL, BRAIN, SPACING, 5, 1, ["volume"], (8.0, 8.0))
    assert np.count_nonzero(grown.label) - np.count_nonzero(LABEL) == round(8 / VOXEL_ML)
    dead = [varied(LABEL, BRAIN, SPACING, 5, number, ["necrosis"]).label for number in range(1, 6)]
    assert len({int((label == 1).sum()) for label in dead}) > 2
    assert len({int(np.isin(label, (1, 3)).sum()) for label in dead}) == 1
    warped = varied(LABEL, BRAIN, SPACING, 5, 1, ["deform"]).label
    overlap = 2 * np.count_nonzero((warped > 0) & (LABEL > 0)) / (np.count_nonzero(warped) + np.count_nonzero(LABEL))
    assert 0.6 < overlap < 0.99


def test_places_say_how_much_of_the_mask_the_brain_holds() -> None:
    shifts, held = places(LABEL, BRAIN, SPACING)
    here = int(np.flatnonzero((shifts == 0).all(axis=1))[0])
    assert held[here] == pytest.approx(1, abs=1e-3)
    far = int(np.argmax(np.abs(shifts).sum(axis=1)))
    assert held[far] < 0.5


def test_no_room_is_told() -> None:
    with pytest.raises(VariantFault, match="no room"):
        varied(LABEL, BRAIN, SPACING, 1, 1, ["volume"], (2000.0, 2000.0))


def test_the_largest_piece_alone_is_varied() -> None:
    several = LABEL.copy()
    several[2, 2, 2] = 2
    assert np.array_equal(largest_piece(several), LABEL)


def test_a_mask_outside_is_moved_no_further_than_needed() -> None:
    outside = np.roll(LABEL, (5, -7), axis=(0, 1))
    assert np.count_nonzero(outside[~BRAIN]) > 0.1 * np.count_nonzero(outside)
    moved = nearest_place(outside, BRAIN, SPACING, 0.98)
    assert np.count_nonzero(moved) >= 0.98 * np.count_nonzero(LABEL)
    assert not moved[~BRAIN].any()
    shift = np.array(ndimage.center_of_mass(moved > 0)) - ndimage.center_of_mass(outside > 0)
    assert -5 < shift[0] < 0
    assert np.array_equal(nearest_place(LABEL, BRAIN, SPACING, 0.98), LABEL)
