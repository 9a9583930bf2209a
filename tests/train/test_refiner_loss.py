"""The refiner's loss: blur is told from detail, wherever the detail is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sbldm.train.build import make_refiner
from sbldm.train.objectives.refiner import RefinerStage, detail_strength
from scipy import ndimage

from tests.support.tiny import tiny_system_config


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


def test_the_loss_of_inputs_in_16_bits_is_finite_and_that_of_32() -> None:
    """So several processes are given them; structural similarity in 16 bits would be infinite."""
    config = tiny_system_config()
    torch.manual_seed(0)
    stage = RefinerStage(make_refiner(config), len(config.modalities))
    x = torch.linspace(-1, 1, 16)
    real = (0.6 * x + 0.3 * torch.sin(3 * x[:, None])).expand(1, 8, 4, 16, 16).contiguous()
    real[..., :6] = -1.0  # background, constant
    coarse, label = (real + 0.01).clamp(-1, 1), torch.zeros(1, 8, 4, 16, 16)
    label[:, :, 0] = 1.0
    exact, _ = stage.loss(coarse, label, real)
    with torch.autocast("cpu", torch.bfloat16):
        short, terms = stage.loss(*(tensor.bfloat16() for tensor in (coarse, label, real)))
    assert all(bool(torch.isfinite(term)) for term in terms.values())
    assert float(short) == pytest.approx(float(exact), rel=0.05)
