"""A mask at several volumes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sbldm.engine.masks.growth import grown
from scipy import ndimage

from tests.support.tumours import BRAIN, LABEL, SPACING, VOXEL_ML

OWN_ML = float(np.count_nonzero(LABEL)) * VOXEL_ML


def test_each_mask_holds_the_last_in_one_piece_with_the_same_shares() -> None:
    volumes = [2.0, 10.0, OWN_ML, 60.0, 90.0]
    made = grown(LABEL, BRAIN, SPACING, volumes)
    for label, volume in zip(made, volumes, strict=True):
        assert np.count_nonzero(label) == round(volume / VOXEL_ML)
        assert ndimage.label(label > 0, structure=np.ones((3, 3, 3)))[1] == 1
        assert not label[~BRAIN].any()
        assert (label == 1).sum() / np.count_nonzero(label) == pytest.approx(
            (LABEL == 1).sum() / np.count_nonzero(LABEL), abs=0.02
        )
    for small, large in pairwise(made):
        for tissues in ((1, 2, 3), (1, 3), (1,)):
            assert not (np.isin(small, tissues) & ~np.isin(large, tissues)).any()
    assert np.array_equal(made[2] > 0, LABEL > 0)


def test_at_its_own_volume_it_is_the_mask() -> None:
    (made,) = grown(LABEL, BRAIN, SPACING, [OWN_ML])
    assert np.array_equal(made, LABEL)


def test_oedema_alone_grows_too() -> None:
    oedema = np.where(LABEL > 0, 2, 0).astype(np.uint8)
    small, large = grown(oedema, BRAIN, SPACING, [5.0, 70.0])
    assert set(np.unique(small)) == {0, 2}
    assert np.count_nonzero(large) == round(70 / VOXEL_ML)
