"""The segmenter that judges a cohort, on balls of tumour in balls of brain."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from sbldm.engine.errors import InvalidInputError
from sbldm.train.evaluation.segmenter import (
    SegmenterSettings,
    UNet,
    Volume,
    augmented,
    dice,
    normalised,
    segment,
    train_segmenter,
)

QUICK = SegmenterSettings(steps=80, batch_size=4, learning_rate=1e-2, widths=(8, 16), tumour_share=1.0)


def _volume(seed: int) -> Volume:
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(np.arange(32), np.arange(32), np.arange(8), indexing="ij")
    brain = (x - 15.5) ** 2 + (y - 15.5) ** 2 < 196
    centre = rng.uniform(10, 22, 2)
    far = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (2 * (z - 4)) ** 2)
    label = np.where(brain, np.select([far < 3, far < 5, far < 8], [1, 3, 2], 0), 0).astype(np.uint8)
    signal = np.array([[60, 60, 60, 60], [30, 20, 200, 90], [50, 50, 120, 160], [60, 220, 120, 150]])[label]
    image = np.moveaxis(signal + rng.integers(0, 20, signal.shape), -1, 0)
    return np.where(brain, image, 0).astype(np.uint8), label


def test_it_learns_what_it_is_shown_and_finds_it_in_another_volume() -> None:
    losses: list[float] = []
    model = train_segmenter([_volume(k) for k in range(6)], QUICK, lambda step, loss: losses.append(loss))
    image, label = _volume(99)
    found = segment(model, image)
    scores = dice(found, label)
    assert len(losses) == 80
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert min(scores.values()) > 0.6
    assert (found[~image.any(0)] == 0).all()


def test_the_same_seed_trains_the_same_network() -> None:
    settings = SegmenterSettings(steps=2, batch_size=2, widths=(8, 16), seed=3)
    volumes = [_volume(0), _volume(1)]
    first, second = (train_segmenter(volumes, settings).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = train_segmenter(volumes, SegmenterSettings(steps=2, batch_size=2, widths=(8, 16), seed=4)).state_dict()
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_volumes_without_tumour_are_refused() -> None:
    image, label = _volume(0)
    with pytest.raises(InvalidInputError, match="at least one volume with tumour"):
        train_segmenter([(image, np.zeros_like(label))], QUICK)


def test_dice_counts_the_regions_of_brats() -> None:
    a, b = np.zeros((4, 1, 1), np.uint8), np.zeros((4, 1, 1), np.uint8)
    a[:3, 0, 0], b[:3, 0, 0] = (1, 2, 3), (2, 2, 3)
    scores = dice(a, b)
    assert scores["wt"] == 1
    assert scores["tc"] == pytest.approx(2 * 1 / (2 + 1))
    assert scores["et"] == 1
    assert dice(np.zeros_like(a), np.zeros_like(b)) == {"wt": 1.0, "tc": 1.0, "et": 1.0}


def test_normalised_images_have_mean_nought_and_deviation_one_inside_the_brain() -> None:
    image, _ = _volume(0)
    values, brain = normalised(image), image.any(0)
    assert (values[:, ~brain] == 0).all()
    assert np.allclose(values[:, brain].mean(1), 0, atol=1e-4)
    assert np.allclose(values[:, brain].std(1), 1, atol=1e-2)


def test_augmentation_keeps_background_and_moves_labels_with_images() -> None:
    image, label = _volume(0)
    slab = torch.from_numpy(normalised(image))[..., 3:6].permute(3, 0, 1, 2).reshape(1, 12, 32, 32)
    mask = torch.from_numpy(label[..., 4].astype(np.int64))[None]
    for seed in range(5):
        moved, found = augmented(slab, mask, np.random.default_rng(seed))
        assert moved.shape == slab.shape
        assert (moved[:, :, 0, 0] == 0).all()
        enhancing = moved[0, 5][found[0] == 3]
        assert enhancing.mean() > moved[0, 5][(found[0] == 0) & (moved[0, 5] != 0)].mean() + 1


def test_a_unet_gives_a_class_score_a_pixel() -> None:
    assert UNet(12, 4, (8, 16, 32))(torch.zeros(2, 12, 16, 24)).shape == (2, 4, 16, 24)
