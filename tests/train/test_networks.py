"""Networks: shapes, inverses, and the papers' full widths."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from sbldm.engine.conditions import COLUMNS, ConditionColumn
from sbldm.train.config import AggregatorConfig, load_preset
from sbldm.train.latents import condition_names
from sbldm.train.networks.aggregator import MosaicAggregator, StackAggregator, latent_shape
from sbldm.train.networks.denoiser import EllipsoidMap
from sbldm.train.networks.refiner import shift_slices
from sbldm.train.system import make_denoiser, make_refiner, make_vae, parameter_counts, system_latent_shape

PLAIN = tuple(ConditionColumn(name, False, 0.0, 1.0) for name in COLUMNS)


def test_stack_aggregator_is_inverted_exactly() -> None:
    aggregator = StackAggregator(4, 8, 2, 2)
    aggregator.normalisation.mean.normal_()
    aggregator.normalisation.scale.fill_(1.7)
    slices = torch.randn(3, 8, 4, 2, 2)
    assert aggregator.encode(slices).shape == (3, *latent_shape(AggregatorConfig("stack", (8, 16), 0.0), 4, 8, 2, 2))
    torch.testing.assert_close(aggregator.decode(aggregator.encode(slices)), slices)


def test_mosaic_puts_each_slice_into_its_own_tile() -> None:
    aggregator = MosaicAggregator(AggregatorConfig("mosaic", (8, 16), 0.0), 2, 16, 3, 5)
    slices = torch.arange(16.0)[None, :, None, None, None].expand(1, 16, 2, 3, 5).contiguous()
    mosaic = aggregator.mosaic(slices)
    assert mosaic.shape == (1, 2, 12, 20)
    assert (mosaic[0, :, 3:6, 10:15] == 6).all()  # second row, third tile
    torch.testing.assert_close(aggregator.unmosaic(mosaic), slices)


def test_mosaic_refuses_a_depth_that_is_no_square() -> None:
    with pytest.raises(ValueError, match="square number of slices, not 96"):
        latent_shape(AggregatorConfig("mosaic", (8, 16), 0.0), 4, 96, 24, 24)


def test_shifted_slices_come_from_the_neighbours() -> None:
    x = torch.arange(5.0)[None, :, None, None, None].expand(1, 5, 8, 1, 1)
    shifted = shift_slices(x, 8)
    assert shifted[0, :, 0, 0, 0].tolist() == [1, 2, 3, 4, 0]
    assert shifted[0, :, 1, 0, 0].tolist() == [0, 0, 1, 2, 3]
    assert shifted[0, :, 2, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_ellipsoid_lies_where_the_condition_says_and_vanishes_with_the_null_condition() -> None:
    drawn = EllipsoidMap((8, 16, 16), COLUMNS)
    row = torch.zeros(2, len(COLUMNS))
    for name, value in {"x": 0.75, "y": 0.25, "z": 0.5, "w": 0.25, "h": 0.25, "d": 0.5}.items():
        row[:, COLUMNS.index(name)] = value
    image = drawn(row, torch.tensor([1.0, 0.0]))
    assert image.shape == (2, 1, 8, 16, 16)
    assert image[1].abs().max() == 0
    z, x, y = (int(i) for i in torch.nonzero(image[0, 0] == image[0, 0].max())[0])
    assert (x, y) in {(11, 3), (11, 4), (12, 3), (12, 4)}
    assert z in (3, 4)


def test_null_condition_ignores_the_numbers() -> None:
    config = load_preset("phantom")
    small = dataclasses.replace(config.denoiser, widths=(8, 16), blocks=1, groups=4, time_width=16, condition_width=16)
    torch.manual_seed(0)
    denoiser = make_denoiser(dataclasses.replace(config, denoiser=small), PLAIN).eval()
    torch.nn.init.normal_(denoiser.head.weight)
    z, t = torch.randn(1, 4, 64, 16, 16), torch.tensor([500.0])
    one, other = torch.rand(1, 12), torch.rand(1, 12)
    off, on = torch.zeros(1), torch.ones(1)
    with torch.no_grad():
        torch.testing.assert_close(denoiser(z, t, one, off), denoiser(z, t, other, off))
        assert not torch.allclose(denoiser(z, t, one, on), denoiser(z, t, other, on))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["isbi2024", "cmig2025"])
def test_papers_presets_train_one_step_at_full_width(preset: str) -> None:
    config = load_preset(preset)
    columns = PLAIN[: len(condition_names(config))]
    counts = parameter_counts(config, columns)
    print(preset, {name: f"{count / 1e6:.1f} M" for name, count in counts.items()})
    shape = system_latent_shape(config)
    if preset == "isbi2024":  # a slab of the stack: the whole one needs more memory than a small machine has
        config = dataclasses.replace(config, grid=dataclasses.replace(config.grid, shape=(192, 192, 8)))
        shape = system_latent_shape(config)
    denoiser = make_denoiser(config, columns)
    predicted = denoiser(torch.randn(1, *shape), torch.tensor([10.0]), torch.rand(1, len(columns)), torch.ones(1))
    predicted.square().mean().backward()
    assert predicted.shape == (1, *shape)
    vae = make_vae(config)
    x, y, _ = config.grid.shape
    image, logits, mean, _ = vae(
        torch.randn(1, len(config.modalities), x, y), torch.rand(1, config.classes, x, y), torch.tensor([3])
    )
    (image.mean() + logits.mean()).backward()
    assert image.shape == (1, len(config.modalities), x, y)
    assert logits.shape == (1, config.classes, x, y)
    assert mean.shape == (1, *config.slice_shape)


def test_refiner_starts_as_the_identity() -> None:
    refiner = make_refiner(load_preset("phantom"))
    coarse = torch.rand(1, 3, 4, 16, 16)
    torch.testing.assert_close(refiner(coarse, torch.rand(1, 3, 4, 16, 16)), coarse)
