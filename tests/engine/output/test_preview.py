"""One convention of pictures: which side is where, and letters that say so."""

from __future__ import annotations

import numpy as np
import pytest
from sbldm.engine.output.preview import Scan, cropped, panels, row_titles

SHAPE, SPACING = (40, 48, 32), (4.0, 4.0, 5.0)
MARK = np.array([250, 204, 68])


@pytest.fixture(scope="module")
def scan() -> Scan:
    """A brain with a bright corner right, front and up (RAS: high x, y, z), and a tumour in the middle of it."""
    image = np.zeros((2, *SHAPE), np.float32)
    image[:, 4:36, 4:44, 4:28] = 300
    image[:, 24:36, 30:44, 18:28] = 1000
    label = np.zeros(SHAPE, np.uint8)
    label[28:32, 34:40, 20:25] = 1
    return Scan(image, label, SPACING)


@pytest.mark.parametrize("place", range(5))
def test_right_and_front_are_on_the_left_and_up_is_up(scan: Scan, place: int) -> None:
    picture = panels(scan)[place].mean(axis=2)
    height, width = picture.shape
    down, across = (np.argwhere(picture > 180)).mean(axis=0)
    assert across < width / 2
    assert down < height / 2


@pytest.mark.parametrize(("place", "axis"), [(0, 2), (2, 2), (3, 1), (4, 0)])
def test_letters_stand_at_the_four_edges(scan: Scan, place: int, axis: int) -> None:
    """Where the brain is taken away, nothing but the letters is left; each axis has letters of its own."""
    empty = Scan(np.zeros_like(scan.image), np.zeros_like(scan.label), SPACING)
    picture = panels(empty)[place]
    height, width, _ = picture.shape
    lettered = np.abs(picture - MARK).sum(axis=2) < 60
    for edge in (lettered[:, :16], lettered[:, -16:], lettered[:16], lettered[-16:]):
        assert edge.any()
    assert not lettered[20 : height // 2 - 20, 20 : width // 2 - 20].any()


def test_planes_have_letters_of_their_own() -> None:
    """On a cube every plane has the same empty picture but for its letters."""
    cube = Scan(np.zeros((1, 30, 30, 30), np.float32), np.zeros((30, 30, 30), np.uint8), (5.0, 5.0, 5.0))
    axial, tissues, coronal, sagittal = panels(cube)
    middle = slice(90, 135)
    assert np.array_equal(axial, tissues)
    assert np.array_equal(axial[middle], coronal[middle])  # R and L
    assert not np.array_equal(axial[:20], coronal[:20])  # A, S
    assert np.array_equal(coronal[:20], sagittal[:20])  # S
    assert not np.array_equal(coronal[middle], sagittal[middle])


def test_scans_of_a_row_are_cut_to_one_box_and_titled(scan: Scan) -> None:
    other = Scan(np.zeros_like(scan.image), scan.label, SPACING)
    first, second = cropped([scan, other])
    assert first.image.shape == second.image.shape
    assert first.image.shape[1] < SHAPE[0]
    assert row_titles(("t1ce", "adc")) == ["T1ce", "adc", "tissues", "coronal", "sagittal"]
    assert len(panels(first)) == 5
