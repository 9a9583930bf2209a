"""The tissues of scans, against brains whose tissues are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.anatomy.draft import painted
from sbldm.engine.anatomy.draw import Field, drawn_shares
from sbldm.engine.anatomy.shares import tissue_shares
from sbldm.kernels.noise import standard_normal
from scipy import ndimage

FIELD = Field((64, 64, 32), (3.0, 3.0, 4.8))
SCANS = {
    "sharp": [[0.70, 0.25, 0.45], [0.57, 0.32, 0.49], [0.35, 0.60, 0.20]],
    "dark": [[0.35, 0.15, 0.22], [0.30, 0.19, 0.25], [0.18, 0.40, 0.12]],
    "little contrast": [[0.62, 0.30, 0.40], [0.57, 0.345, 0.43], [0.42, 0.66, 0.24]],
}


def brain(sample: int) -> NDArray[np.float32]:
    label = np.zeros(FIELD.shape, np.uint8)
    return drawn_shares(standard_normal(7, sample, 9, FIELD.numbers), label, FIELD)


def scan(shares: NDArray[np.float32], levels: list[list[float]], seed: int) -> NDArray[np.float32]:
    """(3, x, y, z): the levels, a smooth bias of up to 20 % a modality, noise of 3 % of the white matter."""
    rng = np.random.default_rng(seed)
    clean = (painted(shares, np.zeros(FIELD.shape, np.uint8), levels).transpose(1, 2, 3, 0) + 1) / 2
    bias = [ndimage.gaussian_filter(rng.standard_normal(FIELD.shape), 9) for _ in range(3)]
    bias = np.stack([1 + 0.2 * part / np.abs(part).max() for part in bias])
    noisy = clean * bias + 0.03 * np.array(levels[0])[:, None, None, None] * rng.standard_normal(clean.shape)
    return np.where(shares.any(axis=0), np.clip(noisy, 1 / 255, 1), 0).astype(np.float32)


@pytest.mark.parametrize("name", SCANS)
def test_tissues_are_told_apart_under_bias_and_noise(name: str) -> None:
    known = brain(0)
    found = tissue_shares(scan(known, SCANS[name], seed=1), np.zeros(FIELD.shape, np.uint8), FIELD.spacing_mm)
    inside = known.any(axis=0)
    np.testing.assert_allclose(found.sum(axis=0)[inside], 1, atol=1e-5)
    assert not found[:, ~inside].any()
    pure = ndimage.binary_erosion(inside, iterations=2) & (known.max(axis=0) > 0.85)
    right = (found.argmax(axis=0) == known.argmax(axis=0))[pure]
    assert right.mean() > (0.75 if name == "little contrast" else 0.85)


def test_a_tumour_does_not_move_the_tissues_around_it() -> None:
    known, label = brain(1), np.zeros(FIELD.shape, np.uint8)
    image = scan(known, SCANS["sharp"], seed=2)
    label[34:48, 28:44, 12:22] = 2
    shining = image.copy()
    shining[:, label > 0] = np.array([0.95, 0.95, 0.95], np.float32)[:, None]
    found = tissue_shares(shining, label, FIELD.spacing_mm)
    away = known.any(axis=0) & ~ndimage.binary_dilation(label > 0, iterations=6)
    expected = tissue_shares(image, label, FIELD.spacing_mm)
    assert np.abs(found - expected)[:, away].mean() < 0.01


def test_a_scan_with_next_to_nothing_in_it_is_grey() -> None:
    image = np.zeros((3, 16, 16, 8), np.float32)
    label = np.zeros((16, 16, 8), np.uint8)
    assert not tissue_shares(image, label, (3.0, 3.0, 4.8)).any()
    image[:, 4:8, 4:8, 2:6] = 0.5
    shares = tissue_shares(image, label, (3.0, 3.0, 4.8))
    assert np.array_equal(shares[1] == 1, image[0] > 0)


def test_a_flat_scan_gives_finite_shares() -> None:
    image = np.zeros((3, 32, 32, 16), np.float32)
    image[:, 4:28, 4:28, 3:13] = 0.4
    shares = tissue_shares(image, np.zeros((32, 32, 16), np.uint8), (3.0, 3.0, 4.8))
    assert np.isfinite(shares).all()
    np.testing.assert_allclose(shares.sum(axis=0)[image[0] > 0], 1, atol=1e-5)
