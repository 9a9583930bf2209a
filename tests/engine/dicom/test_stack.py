"""From RAS affines of arrays to the patient coordinates of DICOM and back; UIDs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sbldm.engine.dicom.about import CaseAbout
from sbldm.engine.dicom.stack import Stack
from scipy.spatial.transform import Rotation

ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)


@settings(deadline=None)
@given(angles=ANGLES, sides=st.tuples(*[st.floats(0.2, 9)] * 3), sees=st.booleans())
def test_every_voxel_keeps_its_place(angles, sides, sees: bool) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(sides)
    affine[:3, 3] = 3.5, -70, 12
    array = np.arange(60).reshape(3, 4, 5)
    stack = Stack.of(array.shape, affine, as_radiologists_see_it=sees)
    slices = stack.turned(array)
    i, j, k = np.argwhere(array == 37)[0]
    column, row, number = np.argwhere(slices == 37)[0]
    along, down = np.split(np.array(stack.orientation), 2)
    place = stack.position(number) + column * stack.spacing[0] * along + row * stack.spacing[1] * down  # C.7.6.2.1.1
    assert np.allclose(place * [-1, -1, 1], (affine @ [i, j, k, 1])[:3])
    assert stack.slice_at(place) == number == k
    assert np.array_equal(stack.turned(slices), array)
    assert np.isclose(along @ down, 0, atol=1e-9)
    if sees:
        assert stack.affine[0, 0] >= 0
        assert stack.affine[1, 1] >= 0


def test_columns_run_to_the_left_and_rows_to_the_back() -> None:
    stack = Stack.of((4, 6, 8), np.diag([1.5, 1.5, 2.4, 1.0]), as_radiologists_see_it=True)
    assert stack.orientation == [1, 0, 0, 0, 1, 0]
    assert stack.position(1) == pytest.approx([-1.5 * 3, -1.5 * 5, 2.4])  # LPS of the array's far corner


def test_uids_follow_from_the_case_and_are_valid() -> None:
    def about(**more) -> CaseAbout:
        return CaseAbout(**{**dict(version="1", bundle_id="b", recipe="aa", seed=0, sample=1, requested=()), **more})

    uids = {about().uid("t1", 0), about(recipe="ab").uid("t1", 0), about(sample=2).uid("t1", 0), about().uid("t1", 1),
            about(requested=(("volume_ml", 2.0),)).uid("t1", 0), about().uid("t10")}  # fmt: skip
    assert len(uids) == 6
    assert about(version="2").uid("t1", 0) in uids  # another version that makes the same sample makes the same instance
    for uid in uids:
        assert len(uid) <= 64
        assert uid.startswith("2.25.")
        assert str(int(uid.removeprefix("2.25."))) == uid.removeprefix("2.25.")
