"""Healthy tissue where a lesion hides it, and tissue that a lesion pushes aside."""

from __future__ import annotations

import numpy as np
import pytest
from sbldm.engine.anatomy.heal import healed, symmetry
from sbldm.engine.anatomy.mass_effect import STRENGTH, pushed_places, taken_from
from scipy import ndimage

SPACING = (2.0, 2.0, 3.0)
SHAPE = (60, 64, 40)


def symmetric_brain(middle: float) -> np.ndarray:
    """Shares (3, x, y, z) of an ellipsoid with structures that are the same on both sides of a plane across x."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    across = np.abs(x - middle)
    inside = (across / 24) ** 2 + ((y - 32) / 28) ** 2 + ((z - 20) / 17) ** 2 < 1
    fluid = (np.abs(across - 6) < 2) & (np.abs(y - 30) < 10) & (np.abs(z - 20) < 5)
    grey = (np.abs(across - 14) < 3) & (np.abs(y - 24) < 6)
    shares = np.stack([~(grey | fluid), grey & ~fluid, fluid]).astype(np.float32)
    return shares * inside


@pytest.mark.parametrize("middle", [29.5, 33.0], ids=["centred", "off-centre"])
def test_a_lesion_gets_the_tissue_of_the_other_side(middle: float) -> None:
    shares = symmetric_brain(middle)
    at = np.indices(SHAPE) * np.reshape(SPACING, (3, 1, 1, 1))
    centre = np.array([(middle + 14) * 2.0, 48.0, 60.0]).reshape(3, 1, 1, 1)
    lesion = (np.linalg.norm(at - centre, axis=0) < 18) & (shares.sum(axis=0) > 0)
    spoiled = shares.copy()
    spoiled[:, lesion] = np.array([[0], [0], [1]], np.float32)
    by = symmetry(spoiled, lesion, SPACING)
    assert by == round(2 * middle) - (SHAPE[0] - 1)
    made = healed(spoiled, lesion, SPACING, by)
    inner = ndimage.binary_erosion(lesion, iterations=1)
    assert np.abs(made - shares)[:, inner].mean() < 0.03
    far = ~ndimage.binary_dilation(lesion, iterations=6)
    assert np.abs(made - shares)[:, far].max() < 1e-3
    assert made.sum(axis=0)[shares.sum(axis=0) > 0] == pytest.approx(1, abs=1e-4)
    assert not made[:, shares.sum(axis=0) == 0].any()


def test_without_a_lesion_nothing_changes() -> None:
    shares = symmetric_brain(29.5)
    assert healed(shares, np.zeros(SHAPE, bool), SPACING, 0) is shares


def test_tissue_at_the_core_is_pushed_most_and_none_beyond_the_margin() -> None:
    at = np.indices(SHAPE) * np.reshape(SPACING, (3, 1, 1, 1))
    far = np.linalg.norm(at - np.array([60.0, 64.0, 60.0]).reshape(3, 1, 1, 1), axis=0)
    core = far < 14
    distance = np.asarray(ndimage.distance_transform_edt(~core, SPACING), np.float32)
    places = pushed_places(core, distance, SPACING, 12.0)
    moved = np.linalg.norm((places - np.indices(SHAPE)) * np.reshape(SPACING, (3, 1, 1, 1)), axis=0)
    assert moved[distance >= 12].max() == 0
    edge = (far > 12) & (far < 14)
    assert moved[edge].mean() == pytest.approx(STRENGTH * 14, rel=0.2)
    radial = np.linalg.norm(places * np.reshape(SPACING, (3, 1, 1, 1)) - [[[[60.0]]], [[[64.0]]], [[[60.0]]]], axis=0)
    assert (radial <= far + 1e-3).all()  # what is seen comes from nearer to the core
    image = taken_from(far[None].astype(np.float32), places)[0]
    assert np.abs(image - radial).max() < 0.5
