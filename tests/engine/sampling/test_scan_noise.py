"""Noise as strong and as alike as that of a scan."""

from __future__ import annotations

import numpy as np
import pytest
from sbldm.engine.sampling.scan_noise import NUMBERS, SIDE, ScanNoise
from scipy.ndimage import convolve1d

NORMALS = np.random.default_rng(0).standard_normal(NUMBERS).astype(np.float32)
WHOLE = [slice(0, SIDE)] * 3


def test_noise_that_is_drawn_is_measured_again() -> None:
    noise = ScanNoise(7.0, (0.5, 0.3, 0.0)).drawn(NORMALS, WHOLE)
    steep = np.zeros(noise.shape, np.float32)
    steep[:10] = np.indices((10, SIDE, SIDE))[0] * 100
    folds = noise.copy()
    folds[:10] += np.random.default_rng(1).normal(0, 90, folds[:10].shape).astype(np.float32)
    found = ScanNoise.of(folds, steep, np.ones(noise.shape, bool))
    assert found.deviation == pytest.approx(7.0, rel=0.05)
    assert found.alike == pytest.approx((0.5, 0.3, 0.0), abs=0.06)


def test_a_voxel_has_the_same_noise_in_every_box() -> None:
    noise = ScanNoise(1.0, (0.4, 0.4, 0.2))
    large = noise.drawn(NORMALS, (slice(30, 120), slice(0, 60), slice(5, 50)))
    small = noise.drawn(NORMALS, (slice(50, 70), slice(40, 60), slice(5, 6)))
    assert np.array_equal(large[20:40, 40:, :1], small)


def test_too_little_tissue_has_no_noise() -> None:
    few = np.zeros((20, 20, 20), bool)
    few[:5, :5, :5] = True
    shown = np.zeros(few.shape, np.float32)
    for around in (few, np.zeros_like(few)):
        assert not ScanNoise.of(shown, shown, around).drawn(NORMALS, [slice(0, 4)] * 3).any()
    flat = ScanNoise.of(shown, shown, np.ones_like(few))
    assert (flat.deviation, flat.alike) == (0.0, (0.0, 0.0, 0.0))
    smooth = convolve1d(np.random.default_rng(2).standard_normal((20, 20, 20)), np.ones(9), axis=0).astype(np.float32)
    assert ScanNoise.of(smooth, shown, np.ones_like(few)).alike[0] == pytest.approx(0.65)
