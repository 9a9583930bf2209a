"""Drafts: what they are painted with, and how."""

from __future__ import annotations

import numpy as np
from sbldm.engine.anatomy.draft import levels_of, painted

LEVELS = [[0.6, 0.2], [0.5, 0.3], [0.2, 0.9], [0.1, 0.4], [0.3, 0.8], [0.7, 0.5]]


def test_a_voxel_has_the_mean_of_its_tissues() -> None:
    shares = np.zeros((3, 2, 2, 1), np.float32)
    shares[:, 0, 0, 0] = (0.25, 0.75, 0)
    shares[:, 0, 1, 0] = shares[:, 1, 0, 0] = (1, 0, 0)
    label = np.zeros((2, 2, 1), np.uint8)
    label[1] = [[2], [3]]  # one in the brain, one outside it
    image = (painted(shares, label, LEVELS) + 1) / 2
    assert image.shape == (1, 2, 2, 2)
    expected = [[0.525, 0.6], [0.3, 0.7]], [[0.275, 0.2], [0.8, 0.5]]
    np.testing.assert_allclose(image[0], np.round(np.array(expected) * 255) / 255, atol=1e-6)


def test_levels_are_measured_back_from_what_was_painted() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet((0.1, 0.1, 0.1), (8, 8, 8)).transpose(3, 0, 1, 2).round().astype(np.float32)
    label = rng.integers(0, 4, (8, 8, 8)).astype(np.uint8)
    image = (painted(shares, label, LEVELS).transpose(1, 2, 3, 0) + 1) / 2
    np.testing.assert_allclose(levels_of(image, shares, label, 3).means(), LEVELS, atol=0.002)


def test_a_tissue_that_no_case_has_looks_like_grey_matter() -> None:
    shares = np.zeros((3, 2, 1, 1), np.float32)
    shares[1] = 1
    image = np.full((2, 2, 1, 1), 0.5, np.float32)
    image[1] = 0.25
    means = levels_of(image, shares, np.zeros((2, 1, 1), np.uint8), 3).means()
    np.testing.assert_allclose(means, [[0.5, 0.25]] * 6)
