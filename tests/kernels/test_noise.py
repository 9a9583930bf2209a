"""Philox words against known answers and an independent implementation; normals against float64 and statistics."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sbldm.kernels.noise import CONDITION_DRAW, philox4x32, standard_normal, standard_normal_where, uniform
from scipy import stats

SIZES = [1, 3, 4, 5, 63, 500, 65537]
word64 = st.integers(0, 2**64 - 1)


def independent_words(seed: int, sample: int, draw: int, blocks: int) -> np.ndarray:
    """The same words from randomgen, which increments its counter before use; the block is the lowest word."""
    randomgen = pytest.importorskip("randomgen")
    counter = (draw << 32) + (sample << 64)
    generator = randomgen.Philox(key=seed, counter=(counter - 1) % 2**128, number=4, width=32)
    return generator.random_raw(4 * blocks).astype(np.uint32).reshape(blocks, 4)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (0xFFFFFFFF, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ],
)
def test_known_answers(word: int, expected: list[int]) -> None:
    counter = np.full((2, 3, 4), word, np.uint32)
    words = philox4x32(counter, np.full(2, word, np.uint32))
    assert words.dtype == np.uint32
    np.testing.assert_array_equal(words, np.broadcast_to(np.array(expected, np.uint32), (2, 3, 4)))


@settings(max_examples=40, deadline=None)
@given(seed=word64, sample=word64, draw=st.integers(0, 2**32 - 1), blocks=st.integers(1, 70))
def test_words_match_independent_implementation(seed: int, sample: int, draw: int, blocks: int) -> None:
    counter = np.zeros((blocks, 4), np.uint32)
    counter[:, 0] = np.arange(blocks)
    counter[:, 1:] = [draw, sample & 0xFFFFFFFF, sample >> 32]
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    expected = independent_words(seed, sample, draw, blocks)
    np.testing.assert_array_equal(philox4x32(counter, key), expected)
    u = ((expected.reshape(-1) >> 8) + 0.5) * 2.0**-24
    np.testing.assert_array_equal(uniform(seed, sample, draw, 4 * blocks), u)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("draw", [0, 7, CONDITION_DRAW])
def test_normals_match_the_formula_in_float64(size: int, draw: int) -> None:
    seed, sample = 0x0123456789ABCDEF, 2**40 + 3
    words = independent_words(seed, sample, draw, (size + 3) // 4).astype(np.float64)
    bits = np.floor(words / 256)
    radius = np.sqrt(-2 * np.log((bits[:, 0::2] + 1) / 2**24))
    angle = 2 * np.pi * bits[:, 1::2] / 2**24
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    normals = standard_normal(seed, sample, draw, size)
    assert normals.dtype == np.float32
    assert normals.shape == (size,)
    np.testing.assert_allclose(normals, pairs.reshape(-1)[:size], rtol=0, atol=1e-6)


def test_a_longer_draw_starts_with_the_shorter_one() -> None:
    long = standard_normal(1, 2, 3, 1000)
    for size in SIZES[:6]:
        np.testing.assert_array_equal(standard_normal(1, 2, 3, size), long[:size])


def test_normals_are_standard_and_draws_are_unrelated() -> None:
    rows = np.stack([standard_normal(5, sample, draw, 50_000) for sample in range(3) for draw in range(3)])
    assert abs(rows.mean()) < 0.01
    assert abs(rows.std() - 1) < 0.01
    assert stats.kstest(rows[0], "norm").pvalue > 1e-3
    correlation = np.corrcoef(rows) - np.eye(9)
    assert np.abs(correlation).max() < 0.025


@pytest.mark.parametrize("arguments", [(-1, 0, 0, 1), (2**64, 0, 0, 1), (0, -1, 0, 1), (0, 0, 2**32, 1), (0, 0, 0, -1)])
def test_numbers_that_do_not_fit_are_refused(arguments: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="is not in 0"):
        standard_normal(*arguments)


@pytest.mark.parametrize("size", [1, 7, 4096, 70_001])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.9])
def test_where_they_are_wanted_normals_are_those_of_the_whole_draw(size: int, share: float) -> None:
    wanted = np.random.default_rng(size).random(size) < share
    wanted[-1] = True
    made, whole = standard_normal_where(3, 2**33, 5, wanted), standard_normal(3, 2**33, 5, size)
    assert made.shape == whole.shape
    assert made[wanted].tobytes() == whole[wanted].tobytes()
    assert np.isin(made, [0, *whole] if size < 10 else np.append(whole, 0)).all()
    assert share > 0.5 or size < 100 or (made == 0).mean() > 0.5
