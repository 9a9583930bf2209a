from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.sampling.grain import grain_numbers, grain_wanted, with_grain, with_grain_inside
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


@pytest.mark.parametrize(
    "box", [(slice(8, 20), slice(5, 30), slice(10, 30)), (slice(0, 9), slice(30, 44), slice(3, 36))]
)
def test_within_a_region_it_is_the_grain_of_the_whole_image(box: tuple[slice, slice, slice]) -> None:
    """Byte for byte, of the normals that are asked for alone, at the edges of the field too."""
    inside = np.zeros(SHAPE[1:], np.bool_)
    inside[box] = np.random.default_rng(3).random(inside[box].shape) > 0.2
    image = np.random.default_rng(4).random(SHAPE).astype(np.float32)
    deviations = [[0.02, 0.04], [0.06, 0.02]]
    wanted = grain_wanted(inside, SHAPE[0])
    assert wanted.size == grain_numbers(SHAPE)
    normals = standard_normal(1, 2, 0, wanted.size)
    expected = with_grain(image, deviations, normals)
    made = with_grain_inside(image, deviations, np.where(wanted, normals, np.float32(0)), inside)
    assert made[:, inside].tobytes() == expected[:, inside].tobytes()
    assert np.isfinite(made).all()
    nowhere = with_grain_inside(image, deviations, normals, np.zeros_like(inside))
    assert nowhere.tobytes() == image.tobytes()
