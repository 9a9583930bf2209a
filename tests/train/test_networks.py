"""Networks: shapes, inverses, and the papers' full widths."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from sbldm.engine.conditions.columns import COLUMNS, ConditionColumn
from sbldm.engine.errors import InvalidInputError
from sbldm.train.build import make_denoiser, make_refiner, make_system_aggregator, make_vae, system_latent_shape
from sbldm.train.config import AggregatorConfig, check_config, config_from_json, config_to_json, load_preset
from sbldm.train.footprint import gmac_of, weight_count
from sbldm.train.latents import condition_names
from sbldm.train.networks.aggregator import MosaicAggregator, StackAggregator, latent_shape
from sbldm.train.networks.denoiser import EllipsoidMap
from sbldm.train.networks.refiner import shift_slices

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


def test_shells_hold_their_share_of_the_ellipsoid() -> None:
    drawn = EllipsoidMap((32, 32, 32), COLUMNS, [["ncr_share", "et_share"], ["ncr_share"]], sharpness=50.0)
    row = torch.zeros(1, len(COLUMNS))
    values = {"x": 0.5, "y": 0.5, "z": 0.5, "w": 0.8, "h": 0.8, "d": 0.8, "ncr_share": 0.2, "et_share": 0.3}
    for name, value in values.items():
        row[:, COLUMNS.index(name)] = value
    whole, core, necrosis = drawn(row, torch.ones(1))[0].sum(dim=(1, 2, 3)).tolist()
    assert core / whole == pytest.approx(0.5, abs=0.02)
    assert necrosis / whole == pytest.approx(0.2, abs=0.02)


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


def test_published_networks_are_as_large_as_the_authors() -> None:
    """Figures of the authors' own networks: UNet 48.3 M and 96.1 GMAC, slice decoder 9.5 M and 1489 GMAC for 64
    slices, aggregator decode 1.1 M and 17.6 GMAC; their decoder was run without the embedding of the slice position.
    """
    config = load_preset("cmig2025")
    with torch.device("meta"):
        decoder, aggregator = make_vae(config).decoder, make_system_aggregator(config)
        denoiser = make_denoiser(config, PLAIN)
        latent, position = torch.empty(1, *config.slice_shape), torch.zeros(1, dtype=torch.int64)
        z, one = torch.empty(1, *system_latent_shape(config)), torch.ones(1)
        gmac = {
            "denoiser": gmac_of(lambda: denoiser(z, one, torch.empty(1, len(PLAIN)), one)),
            "decoder": 64 * gmac_of(lambda: decoder(latent, position)),
            "aggregator": gmac_of(lambda: aggregator.decode(z)),
        }
    position_only = sum(p.numel() for name, p in decoder.named_parameters() if "position" in name or "embed" in name)
    assert isinstance(aggregator, MosaicAggregator)
    counts = {
        "denoiser": weight_count(denoiser),
        "decoder": weight_count(decoder) - position_only,
        "aggregator": weight_count(aggregator.decoder),
    }
    print({name: (f"{count / 1e6:.1f} M", f"{gmac[name]:.1f} GMAC") for name, count in counts.items()})
    assert {name: round(count / 1e6, 1) for name, count in counts.items()} == {
        "denoiser": 48.3, "decoder": 9.5, "aggregator": 1.1,
    }  # fmt: skip
    assert gmac == pytest.approx({"denoiser": 96.1, "decoder": 1489.0, "aggregator": 17.6}, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["isbi2024", "cmig2025"])
def test_papers_presets_train_one_step_at_full_width(preset: str) -> None:
    """Every width is the paper's; the field is a corner of the slice and of Z, to which the weights are indifferent."""
    config = load_preset(preset)
    columns = PLAIN[: len(condition_names(config))]
    channels, *space = system_latent_shape(config)
    z = torch.randn(1, channels, *[8] * len(space))
    denoiser = make_denoiser(config, columns)
    predicted = denoiser(z, torch.tensor([10.0]), torch.rand(1, len(columns)), torch.ones(1))
    assert predicted.shape == z.shape
    predicted.sum().backward()
    assert all(p.grad is not None for name, p in denoiser.named_parameters())
    del denoiser
    vae = make_vae(config)
    image, logits, mean, _ = vae(
        torch.randn(1, len(config.modalities), 32, 32), torch.rand(1, config.classes, 32, 32), torch.tensor([3])
    )
    (image.mean() + logits.mean()).backward()
    assert image.shape == (1, len(config.modalities), 32, 32)
    assert logits.shape == (1, config.classes, 32, 32)
    assert mean.shape == (1, config.vae.latent_channels, 4, 4)
    assert all(p.grad is not None for p in vae.parameters())


def test_published_form_refuses_attention() -> None:
    config = load_preset("cmig2025")
    with pytest.raises(InvalidInputError, match="attention must be false"):
        check_config(dataclasses.replace(config, vae=dataclasses.replace(config.vae, attention=True)), "x.yaml")


def test_checkpoints_without_a_form_are_light() -> None:
    config = load_preset("phantom")
    stored = json.loads(json.dumps(config_to_json(config)))
    del stored["vae"]["form"], stored["denoiser"]["form"]
    assert config_from_json(stored, "system.json") == config


def test_refiner_starts_as_the_identity() -> None:
    refiner = make_refiner(load_preset("phantom"))
    coarse = torch.rand(1, 3, 4, 16, 16)
    torch.testing.assert_close(refiner(coarse, torch.rand(1, 3, 4, 16, 16)), coarse)
