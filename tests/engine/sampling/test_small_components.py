from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sbldm.engine.sampling.small_components import SMALL_SHARE, drop_outside_brain, drop_small_components
from skimage.measure import label as pieces_of


def test_a_small_piece_goes_and_a_large_one_stays() -> None:
    label = np.zeros((12, 12, 12), np.uint8)
    label[:5, :5, :5] = 2
    label[1, 1, 1] = 3
    label[7:10, 7:10, 7] = 1  # 9 of 136 voxels: more than a twentieth
    label[11, 0, 11] = 1
    kept = drop_small_components(label)
    assert kept[11, 0, 11] == 0
    label[11, 0, 11] = 0
    assert np.array_equal(kept, label)


def test_of_nothing_but_specks_one_stays() -> None:
    label = np.zeros((11, 11, 3), np.uint8)
    label[::2, ::2, 1] = 1  # 36 pieces of one voxel each, all below a twentieth
    assert (drop_small_components(label) > 0).sum() == 1


def test_voxels_that_share_a_corner_are_one_piece() -> None:
    label = np.zeros((40, 40, 40), np.uint8)
    label[np.arange(30), np.arange(30), np.arange(30)] = 2
    assert np.array_equal(drop_small_components(label), label)


@settings(deadline=None)
@given(arrays(np.uint8, (5, 6, 4), elements=st.sampled_from([0, 0, 0, 1, 2, 3])))
def test_what_is_left_are_the_pieces_that_are_large_enough(label: np.ndarray) -> None:
    before, kept = label.copy(), drop_small_components(label)
    assert np.array_equal(label, before)
    pieces = pieces_of(label > 0, connectivity=3)
    sizes = np.bincount(pieces.ravel())[1:]
    for number, size in enumerate(sizes, start=1):
        piece = pieces == number
        stays = size >= SMALL_SHARE * sizes.sum() or number == sizes.argmax() + 1
        assert np.array_equal(kept[piece], label[piece] if stays else np.zeros(size))
    assert not kept[pieces == 0].any()


def test_what_is_drawn_beside_the_brain_is_background() -> None:
    image, label = np.zeros((2, 10, 10, 10), np.int16), np.zeros((10, 10, 10), np.uint8)
    image[0, 2:6, 2:6, 2:6] = 5
    image[1, 6, 3, 3] = 7  # of another modality, at the brain's surface
    label[6, 4, 3] = 1  # labelled and dark, it holds the next voxel to the brain
    image[1, 6, 5, 3] = 8
    image[:, 0, 0, 0] = 9
    image[0, 7, 7, 7] = 9  # touches nothing by a face
    kept = drop_outside_brain(image, label)
    assert kept[:, 0, 0, 0].max() == kept[0, 7, 7, 7] == 0
    assert np.count_nonzero(image) - np.count_nonzero(kept) == 3
    assert drop_outside_brain(kept, label) is kept
