"""Copies of brains are told from other brains."""

from __future__ import annotations

import numpy as np
import pytest
from sbldm.engine.copies import (
    FALSE_ALARM,
    MIN_HONEST,
    PARTS,
    CopyReference,
    Limits,
    describe,
    fisher,
    likeness,
    nearest_other,
)
from scipy import stats

from tests.support.brains import SPACING_MM, brain


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [brain(seed)[0] for seed in range(16)]


@pytest.fixture(scope="module")
def reference(images: list[np.ndarray]) -> CopyReference:
    return CopyReference.of([describe(image, SPACING_MM) for image in images[:14]], SPACING_MM)


def test_a_case_is_wholly_like_itself_and_its_mirror_image(images: list[np.ndarray]) -> None:
    described = describe(images[0], SPACING_MM)[None]
    mirrored = describe(images[0][:, ::-1], SPACING_MM)[None]
    assert likeness(described, described).shape == (1, 1, 4, len(PARTS))
    assert likeness(described, described).min() > 0.99
    assert likeness(mirrored, described)[..., 0].min() > 0.99


def test_the_correlation_is_that_of_numpy(images: list[np.ndarray]) -> None:
    one, other = (describe(image, SPACING_MM) for image in images[:2])
    expected = 0.0
    for pose in range(2):
        for sign in (1, -1):
            a, b = one[pose, 2, ::sign].astype(np.float64), other[pose, 2].astype(np.float64)
            expected = max(expected, abs((a * b).sum()) / np.sqrt((a * a).sum() * (b * b).sum()))
    assert likeness(one[None], other[None])[0, 0, 2, 0] == pytest.approx(expected, rel=1e-4)


def test_other_brains_are_no_copies(images: list[np.ndarray], reference: CopyReference) -> None:
    assert all(reference.closeness(image) < 1 for image in images[14:])


@pytest.mark.parametrize("gain", [0.5, -1.0])
def test_dimmed_and_inverted_copies_are_told(images: list[np.ndarray], reference: CopyReference, gain: float) -> None:
    copied = np.where(images[3] > 0, 256 * (gain < 0) + gain * images[3].astype(float), 0).clip(0, 255)
    assert reference.closeness(copied.astype(np.uint8)) > 1


@pytest.mark.parametrize("shift", [(2, 0, 0), (-2, 0, 1), (1, -2, 0)])
def test_moved_copies_are_told(images: list[np.ndarray], reference: CopyReference, shift: tuple[int, int, int]) -> None:
    assert reference.closeness(np.roll(images[5], shift, (1, 2, 3))) > 1


def test_limits_are_prediction_limits_of_a_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    nearest = np.tanh(rng.normal(0.4, 0.05, (200, 2, 3))).astype(np.float32)
    limits = Limits.of(nearest)
    z = np.arctanh(nearest.astype(np.float64))
    quantile = stats.t.ppf(1 - FALSE_ALARM / 6, 199)
    assert limits.limit == pytest.approx(z.mean(0) + quantile * z.std(0, ddof=1) * np.sqrt(1 + 1 / 200))
    at = np.tanh(limits.limit).astype(np.float32)
    assert limits.closeness(at) == pytest.approx(1, abs=1e-4)
    assert limits.closeness(np.tanh(limits.mean).astype(np.float32)) == pytest.approx(0, abs=1e-4)
    honest = np.tanh(rng.normal(0.4, 0.05, (5000, 2, 3))).astype(np.float32)
    assert (limits.closeness(honest) > 1).mean() < 5 * FALSE_ALARM


def test_the_nearest_other_case_is_never_the_case_itself(reference: CopyReference) -> None:
    nearest = nearest_other(reference.features)
    assert nearest.shape == (14, 4, len(PARTS))
    assert nearest[..., 0].max() < 0.9
    assert np.isfinite(fisher(np.ones((1,), np.float32))).all()


def test_what_judges_has_a_digest_of_its_own(images: list[np.ndarray], reference: CopyReference) -> None:
    features = [describe(image, SPACING_MM) for image in images[:MIN_HONEST]]
    one, same = (CopyReference.of(features, SPACING_MM).sha256() for _ in range(2))
    assert one == same != reference.sha256()


def test_an_empty_image_is_like_nothing(reference: CopyReference) -> None:
    assert reference.closeness(np.zeros((4, 32, 32, 16), np.uint8)) < 0
