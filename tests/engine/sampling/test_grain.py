from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.sampling.grain import grain_numbers, with_grain
from sbldm.kernels.noise import standard_normal

SHAPE = (2, 40, 44, 36)


def noise_on(signal: float, deviations: list[list[float]], draw: int = 0) -> NDArray[np.float32]:
    normals = standard_normal(1, 2, draw, grain_numbers(SHAPE))
    normals[0] = 0.0
    image = np.full(SHAPE, signal, np.float32)
    return with_grain(image, deviations, normals) - image


@pytest.mark.parametrize(("signal", "expected"), [(0.0, (0.02, 0.06)), (0.5, (0.03, 0.04)), (1.0, (0.04, 0.02))])
def test_its_deviation_goes_from_dark_to_bright(signal: float, expected: tuple[float, float]) -> None:
    noise = noise_on(signal, [[0.02, 0.04], [0.06, 0.02]])
    np.testing.assert_allclose(noise.std(axis=(1, 2, 3)), expected, rtol=0.03)
    np.testing.assert_allclose(noise.mean(axis=(1, 2, 3)), 0, atol=0.002)


def test_neighbours_are_as_alike_as_in_scans() -> None:
    noise = noise_on(0.5, [[0.05, 0.05]] * 2)[0]
    alike = [float(np.corrcoef(noise.ravel(), np.roll(noise, 1, axis).ravel())[0, 1]) for axis in range(3)]
    np.testing.assert_allclose(alike, [6 / 11, 4 / 6, 6 / 11], atol=0.02)


def test_modalities_have_noise_of_their_own() -> None:
    noise = noise_on(0.5, [[0.05, 0.05]] * 2)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.03


def test_how_strong_it_is_is_drawn_too() -> None:
    normals = standard_normal(1, 2, 0, grain_numbers(SHAPE))
    image = np.full(SHAPE, 0.5, np.float32)
    spreads = []
    for first in (-1.0, 0.0, 1.0):
        normals[0] = first
        spreads.append((with_grain(image, [[0.05, 0.05]] * 2, normals) - image).std())
    np.testing.assert_allclose(np.diff(np.log(spreads)), 0.15, rtol=1e-3)
