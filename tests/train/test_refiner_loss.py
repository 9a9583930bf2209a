"""The refiner's loss: blur is told from detail, wherever the detail is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sbldm.train.objectives.refiner import detail_strength
from scipy import ndimage


def test_detail_strength_is_the_local_root_mean_square_of_what_a_gaussian_removes() -> None:
    image = np.random.default_rng(0).standard_normal((1, 2, 32, 32)).astype(np.float32)
    detail = image - ndimage.gaussian_filter(image, (0, 0, 1, 1), truncate=2.0, mode="nearest")
    squares = np.square(detail)[0, 1, 8:16, 12:20]
    found = detail_strength(torch.from_numpy(image))
    assert found.shape == (1, 2, 7, 7)
    assert float(found[0, 1, 2, 3]) == pytest.approx(float(np.sqrt(squares.mean())), rel=1e-3)


def test_blur_weakens_detail_and_flat_regions_have_none() -> None:
    image = torch.zeros(1, 1, 64, 64)
    image[:, :, :, 32:] = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(image, 3, stride=1, padding=1)
    sharp, soft = detail_strength(image)[0, 0], detail_strength(blurred)[0, 0]
    assert (soft[:, 9:] < 0.6 * sharp[:, 9:]).all()
    assert sharp[:, :6].max() < 2e-3
