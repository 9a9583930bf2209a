"""The seam test sees planted edges, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from sbldm.benchmarks.seam import seam_of
from scipy import ndimage

SPACING = (1.5, 1.5, 2.0)
SHAPE = (64, 64, 48)
NONE = np.zeros(SHAPE, bool)


@pytest.fixture(scope="module")
def scan() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A textured image, distances from a ball, and where brain is."""
    rng = np.random.default_rng(0)
    image = 100 + 20 * ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.5) / 0.12
    at = np.indices(SHAPE) * np.reshape(SPACING, (3, 1, 1, 1))
    ball = np.linalg.norm(at - np.reshape([48.0, 48, 48], (3, 1, 1, 1)), axis=0) < 12
    distance = np.asarray(ndimage.distance_transform_edt(~ball, SPACING))
    return image.astype(np.float32), distance, np.ones(SHAPE, bool)


def test_an_untouched_scan_has_no_seam(scan) -> None:
    image, distance, brain = scan
    found = seam_of(image, image, distance, brain, SPACING, 12.0, NONE)
    assert (found.ratio, found.most, found.ks, found.changed) == (1, 1, 0, 0)
    assert found.noise == pytest.approx(1, abs=0.25)
    assert found.noise_own is None


def test_a_lesion_without_noise_is_seen(scan) -> None:
    image, distance, brain = scan
    smooth = np.where(distance == 0, ndimage.gaussian_filter(image, 3), image).astype(np.float32)
    own = (distance > 14) & (distance < 20)
    found = seam_of(image, smooth, distance, brain, SPACING, 12.0, own)
    assert found.noise < 0.3
    assert found.noise_own == pytest.approx(1, abs=0.15)


def test_a_hard_edge_is_seen_and_a_faded_change_is_not(scan) -> None:
    image, distance, brain = scan
    pasted = np.where(distance < 12, image + 40, image).astype(np.float32)
    hard = seam_of(image, pasted, distance, brain, SPACING, 12.0, NONE)
    assert hard.ratio > 1.8
    assert hard.ks > 0.3
    rest = np.clip(1 - distance / 12, 0, 1)
    faded = (image + 40 * rest * rest * (3 - 2 * rest)).astype(np.float32)
    soft = seam_of(image, faded, distance, brain, SPACING, 12.0, NONE)
    assert 0.9 < soft.ratio < 1.1
    assert soft.beyond == 0
    assert soft.changed > 0


def test_changes_beyond_the_margin_are_counted(scan) -> None:
    image, distance, brain = scan
    made = image.copy()
    far = np.argwhere(distance > 14)[:7]
    made[tuple(far.T)] += 1
    assert seam_of(image, made, distance, brain, SPACING, 12.0, NONE).beyond == 7
