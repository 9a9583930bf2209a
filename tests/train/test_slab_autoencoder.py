"""The depth-compressing autoencoder: what its parts see, where it starts, what its loss leaves out."""

from __future__ import annotations

import numpy as np
import torch
from sbldm.train.config import CropConfig, SlabAutoencoderConfig
from sbldm.train.masters import MasterWeights
from sbldm.train.networks.slab_autoencoder import NormalisedAggregator, SlabAutoencoder
from sbldm.train.objectives.slab_autoencoder import (
    CropSampler,
    SlabAutoencoderObjective,
    blocks_of,
    from_slabs,
    principal_blocks,
    random_contrasts,
    to_slabs,
)

CONFIG = SlabAutoencoderConfig(2, 8, (8, 8, 8), (1, 1, 1), (1, 1, 1), 8)


class Smooth:
    """Four cases (z, 2 modalities, x, y) that vary smoothly, background around them, tumour in one corner."""

    def __len__(self) -> int:
        return 4

    def slices(self, case: int) -> np.ndarray:
        z, x, y = np.meshgrid(np.arange(8), np.arange(32), np.arange(32), indexing="ij")
        wave = 128 + 60 * np.sin(x / 9 + case) * np.cos(y / 7) + 8 * z
        image = np.clip(np.stack([wave, 255 - wave], axis=1), 1, 255).astype(np.uint8)
        image[:, :, :4] = 0
        return image

    def label(self, case: int) -> np.ndarray:
        label = np.zeros((8, 32, 32), np.uint8)
        label[2:4, 20:24, 20:24] = 3
        return label


def sampler(tumour_share: float = 0.5) -> CropSampler:
    return CropSampler(Smooth(), [1.0] * 4, CropConfig((16, 16, 8), tumour_share, 0.0, 0.0))


def random_autoencoder() -> SlabAutoencoder:
    torch.manual_seed(0)
    autoencoder = SlabAutoencoder(CONFIG, 2)
    for parameter in autoencoder.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return autoencoder.eval()


def test_slabs_and_back() -> None:
    image = torch.randn(2, 8, 2, 16, 16)
    slabs = to_slabs(image, 2)
    assert slabs.shape == (2, 4, 4, 16, 16)
    assert torch.equal(slabs[:, 1, 2:], image[:, 3])  # second slice of the second slab
    assert torch.equal(from_slabs(slabs, 2), image)


@torch.no_grad()
def test_the_decoder_is_slab_local_and_the_aggregator_mixes_neighbours_alone() -> None:
    autoencoder = random_autoencoder()
    latent = torch.randn(1, 8, 6, 2, 2)
    changed = latent.clone()
    changed[:, :, 5] += 1.0
    one, other = (autoencoder.aggregator.decode(z)[0] for z in (latent, changed))
    assert not torch.allclose(one[4], other[4])
    assert torch.equal(one[:3], other[:3])  # two mixings reach two slabs
    whole, _ = autoencoder.decoder(one)
    assert torch.allclose(whole[2:4], autoencoder.decoder(one[2:4])[0], atol=1e-5)


@torch.no_grad()
def test_training_starts_at_the_principal_components() -> None:
    source = sampler(0.0)
    autoencoder = SlabAutoencoder(CONFIG, 2)
    mean, components, deviations = principal_blocks(source, 2, 8, draws=24)
    assert torch.allclose(components @ components.T, torch.eye(8), atol=1e-4)
    autoencoder.start_from(mean, components, deviations)
    image = source.draw(4, np.random.default_rng(1))
    slabs = to_slabs(image, 2)
    rebuilt, _ = autoencoder(slabs, torch.zeros_like(autoencoder.jitter_like(slabs)))
    blocks = blocks_of(image, 2).flatten(1)
    linear = (blocks - mean) @ components.T @ components + mean
    inside = (blocks > -1.0).all(dim=1)
    error = (blocks_of(from_slabs(rebuilt, 2), 2).flatten(1) - linear)[inside]
    assert error.square().mean() < 0.02 * (linear - mean)[inside].square().mean()  # the soft bound alone differs


@torch.no_grad()
def test_normalisation_is_undone() -> None:
    autoencoder = random_autoencoder()
    features = torch.randn(1, 4, 10, 4, 4)
    normalised = NormalisedAggregator(autoencoder.aggregator, (8, 4, 2, 2))
    normalised.mean.normal_()
    normalised.scale.uniform_(0.5, 2.0)
    plain = autoencoder.aggregator.encode(features)
    assert torch.allclose(normalised.encode(features), (plain - normalised.mean) / normalised.scale, atol=1e-5)
    again = normalised.decode(normalised.encode(features))
    assert torch.allclose(again, autoencoder.aggregator.decode(plain), atol=1e-4)


def test_the_loss_does_not_see_the_background() -> None:
    objective = SlabAutoencoderObjective(sampler(), 2, 1)
    image = sampler().draw(1, np.random.default_rng(2))
    image[:, :, :, :5] = -1.0
    mask = (image > -1.0).any(dim=2)
    logits = torch.where(mask, 9.0, -9.0).unflatten(1, (-1, 2))
    assert objective.terms(image, logits, image)[0] < 1e-3
    spoiled = torch.where(image == -1.0, torch.tensor(3.0), image)
    assert objective.terms(spoiled, logits, image)[0] < 1e-3
    assert objective.terms(image + 0.2 * mask[:, :, None], logits, image)[0] > 0.1
    assert objective.terms(image, -logits, image)[0] > 0.5


def test_tumour_crops_hold_tumour_and_contrasts_keep_the_background() -> None:
    shown = CropSampler(Smooth(), [0.0, 1.0, 0.0, 0.0], CropConfig((16, 16, 8), 1.0, 0.0, 0.0))
    generator = np.random.default_rng(0)
    crop = Smooth().slices(1)
    changed = random_contrasts(crop, generator)
    assert np.array_equal(changed == 0, crop == 0)
    assert not np.array_equal(changed, crop)
    assert all(case == 1 for case in {int(np.searchsorted(shown.cumulative, u)) for u in (0.01, 0.5, 0.99)})


def test_masters_keep_steps_that_bfloat16_would_lose() -> None:
    module = torch.nn.Linear(4, 4)
    torch.nn.init.ones_(module.weight)
    masters = MasterWeights(module)
    assert masters.working.weight.dtype == torch.bfloat16
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for _ in range(64):
        masters.working.weight.grad = torch.full((4, 4), 2.0**-11, dtype=torch.bfloat16)
        masters.take_gradients()
        optimizer.step()
        optimizer.zero_grad()
        masters.give_weights()
    assert torch.allclose(module.weight, torch.full((4, 4), 1.0 - 64 * 2.0**-11))
    assert torch.allclose(masters.working.weight.float(), module.weight, atol=2.0**-8)
