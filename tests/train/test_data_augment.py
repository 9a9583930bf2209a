"""Real cases made to go further, on synthetic arrays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from sbldm.train.data.augment import AugmentSettings, Case, augment, carve, rescan, warp

SPACING = (3.0, 3.0, 4.0)
STILL = AugmentSettings(mirror=0.0, rotation=0.0, scale=0.0, warps=())


def _case(seed: int = 0, centre: tuple[int, int, int] = (16, 20, 8), radius: float = 5.0) -> Case:
    """A ball of brain with a ball of tumour: oedema around enhancing tumour around necrosis."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(np.arange(32), np.arange(36), np.arange(20), indexing="ij")
    brain = ((x - 15.5) / 13) ** 2 + ((y - 17.5) / 15) ** 2 + ((z - 9.5) / 8) ** 2 < 1
    image = np.where(brain, rng.integers(80, 121, (4, 32, 36, 20)), 0).astype(np.uint8)
    far = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)
    label = np.zeros(brain.shape, np.uint8)
    for value, share in ((2, 1.0), (3, 0.7), (1, 0.4)):
        label[brain & (far < share * radius)] = value
    image[:, label > 0] = np.minimum(image[:, label > 0].astype(int) + 80, 255).astype(np.uint8)
    return image, label


def _check(case: Case) -> None:
    image, label = case
    brain = image.any(axis=0)
    assert image.dtype == label.dtype == np.uint8
    assert all(np.array_equal(modality > 0, brain) for modality in image)
    assert label.max() <= 3
    assert not (label > 0)[~brain].any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_new_case_is_whole_reproducible_and_leaves_the_old_one_alone(seed: int) -> None:
    case, other = _case(), _case(1, (10, 14, 10), 4.0)
    before = case[0].copy(), case[1].copy()
    first = augment(case, [other], SPACING, np.random.default_rng(seed), AugmentSettings())
    again = augment(case, [other], SPACING, np.random.default_rng(seed), AugmentSettings())
    _check(first)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert np.array_equal(case[0], before[0])
    assert np.array_equal(case[1], before[1])
    assert not np.array_equal(first[0], case[0])
    assert 0.6 < first[0].any(0).sum() / case[0].any(0).sum() < 1.5


def test_a_warp_of_nothing_changes_nothing() -> None:
    case = _case()
    image, label = warp(case, SPACING, np.random.default_rng(0), STILL)
    assert np.array_equal(label, case[1])
    assert np.abs(image.astype(int) - case[0].astype(int)).max() <= 1


def test_a_mirror_turns_left_into_right() -> None:
    case = _case(centre=(10, 20, 8))
    mirrored = warp(case, SPACING, np.random.default_rng(0), AugmentSettings(1.0, 0.0, 0.0, ()))
    assert np.array_equal(mirrored[1], case[1][::-1])


def test_a_warp_moves_image_and_label_together() -> None:
    case = _case()
    for seed in range(4):
        image, label = warp(case, SPACING, np.random.default_rng(seed), AugmentSettings())
        _check((image, label))
        inner = label > 0
        assert image[:, inner].mean() > image[:, image.any(0) & ~inner].mean() + 50
        assert 0.5 < inner.sum() / (case[1] > 0).sum() < 2
        assert not np.array_equal(label, case[1])


def test_another_scanner_keeps_the_brain_and_changes_every_modality() -> None:
    image, _ = _case()
    for seed in range(6):
        scanned = rescan(image, SPACING, np.random.default_rng(seed))
        _check((scanned, np.zeros(image.shape[1:], np.uint8)))
        assert np.array_equal(scanned.any(0), image.any(0))
        assert all((a != b).any() for a, b in zip(scanned, image, strict=True))
        top = np.percentile(scanned[:, image.any(0)], 99.5, axis=1)
        assert ((top > 150) & (top <= 255)).all()


def test_a_carved_lesion_brings_its_label_and_signal() -> None:
    receiver, donor = _case(0, (21, 20, 8)), _case(1, (10, 14, 10), 4.0)
    places = set()
    for seed in range(8):
        image, label = carve(receiver, donor, SPACING, np.random.default_rng(seed), 4.0)
        _check((image, label))
        fresh = (label > 0) & (receiver[1] == 0)
        places.add(bool(np.argwhere(fresh)[:, 0].mean() < 15.5))
        assert np.bincount(label[fresh], minlength=4)[1:].min() > 0
        assert image[:, fresh].mean() > image[:, image.any(0) & (label == 0)].mean() + 40
    assert places == {True, False}


def test_far_from_the_carved_lesion_nothing_changes() -> None:
    receiver, donor = _case(0, (16, 27, 10), 3.0), _case(1, (16, 9, 9), 3.0)
    image, label = carve(receiver, donor, SPACING, np.random.default_rng(0), 4.0)
    far = slice(20, 36)
    assert np.array_equal(label[:, far], receiver[1][:, far])
    ratio = image[:, :, far].astype(float).sum() / receiver[0][:, :, far].sum()
    assert np.abs(image[:, :, far].astype(float) - ratio * receiver[0][:, :, far]).max() < 2


def test_a_lesion_that_misses_the_brain_is_not_carved() -> None:
    receiver, donor = _case(), _case(1, (16, 20, 10), 6.0)
    image = receiver[0].copy()
    image[:, :, 14:] = 0
    label = np.where(image.any(0), receiver[1], 0).astype(np.uint8)
    kept = carve((image, label), donor, SPACING, np.random.default_rng(0), 4.0)
    assert kept[0] is image
    assert kept[1] is label


def test_a_donor_without_lesion_changes_nothing() -> None:
    receiver, donor = _case(), _case(1)
    healthy = (donor[0], np.zeros_like(donor[1]))
    assert carve(receiver, healthy, SPACING, np.random.default_rng(0), 4.0)[0] is receiver[0]
