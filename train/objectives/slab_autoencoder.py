"""Stage `autoencoder` of the depth-compressing form: crops of slabs, a loss that lives inside the brain alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...engine.scans.prepare import to_unit
from ..config import CropConfig
from ..networks.slab_autoencoder import BLOCK
from ..prefetch import DrawnAhead, to_device

CHARBONNIER = 0.03  # sqrt(e^2 + c^2): least squares for smaller errors, least deviations for larger ones
BRAIN_WEIGHT = 0.1  # of the brain's cross-entropy
CONTRAST_WAVES = 3  # of the random contrast curve


class CropSource(Protocol):
    """Prepared cases: images (z, modality, x, y) uint8 with background 0, labels (z, x, y) uint8."""

    def __len__(self) -> int: ...
    def slices(self, case: int) -> NDArray[np.uint8]: ...
    def label(self, case: int) -> NDArray[np.uint8]: ...


class CropSampler:
    """Draws crops (N, z, M, x, y) of cases picked with `chances`, half of them mirrored left-right."""

    def __init__(
        self, source: CropSource, chances: Sequence[float] | NDArray[np.float64], settings: CropConfig
    ) -> None:
        self.source, self.settings = source, settings
        self.cumulative = np.cumsum(np.asarray(chances, np.float64) / np.sum(chances))
        self.tumours = [_some_voxels(source.label(i) > 0, i) for i in range(len(source))]
        self.brains = [_some_voxels(np.any(source.slices(i), axis=1), i) for i in range(len(source))]
        self._ahead = DrawnAhead(self._crops)

    def draw(self, size: int, generator: np.random.Generator) -> Tensor:
        """Images (N, z, M, x, y) float32 in [-1, 1], background -1."""
        return self._ahead(size, generator)

    def _crops(self, size: int, generator: np.random.Generator) -> Tensor:
        return torch.from_numpy(np.stack([self._crop(generator) for _ in range(size)]))

    def _crop(self, generator: np.random.Generator) -> NDArray[np.float32]:
        case = int(np.searchsorted(self.cumulative, generator.random()))
        voxels = self.tumours[case] if generator.random() < self.settings.tumour_share else self.brains[case]
        voxels = voxels if len(voxels) else self.brains[case]
        x, y, z = self.settings.shape
        images = self.source.slices(case)
        centre = voxels[generator.integers(len(voxels))]
        picks: list[slice] = []
        for place, length, size in zip(centre, (z, x, y), (images.shape[0], *images.shape[2:]), strict=True):
            start = int(place) - length // 2 + int(generator.integers(-length // 4, length // 4 + 1))
            start = min(max(start, 0), size - length)
            picks.append(slice(start, start + length))
        crop = np.array(images[picks[0], :, picks[1], picks[2]])
        if generator.random() < 0.5:
            crop = crop[:, :, ::-1]
        if generator.random() < self.settings.contrast_share:
            crop = random_contrasts(crop, generator)
        return to_unit(np.ascontiguousarray(crop))


def _some_voxels(where: Any, seed: int, count: int = 512) -> NDArray[np.int16]:
    """(k, 3) int16: at most `count` of the voxels, always the same ones."""
    found = np.flatnonzero(where)
    kept = np.random.default_rng(seed).permutation(found)[:count]
    return np.stack(np.unravel_index(kept, where.shape), axis=1).astype(np.int16)


def random_contrasts(crop: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Every modality (axis 1) through a smooth random curve of its own, rising or not; background stays 0."""
    level = np.linspace(0.0, 1.0, 255)
    out = crop.copy()
    for modality in range(crop.shape[1]):
        curve = level ** np.exp(generator.normal(0.0, 0.4)) * generator.choice((-1.0, 1.0, 1.0))
        for wave in range(1, CONTRAST_WAVES + 1):
            curve = curve + generator.normal(0.0, 0.15 / wave) * np.sin(
                np.pi * wave * level + generator.uniform(0, 6.3)
            )
        curve = (curve - curve.min()) / np.ptp(curve)
        low, high = generator.uniform(0.0, 0.3), generator.uniform(0.6, 1.0)
        table = np.concatenate([[0], np.rint(1 + 254 * (low + (high - low) * curve))]).astype(np.uint8)
        out[:, modality] = table[crop[:, modality]]
    return out


def to_slabs(image: Tensor, slices: int) -> Tensor:
    """(N, z, M, x, y) -> (N, z / slices, slices * M, x, y)."""
    return image.unflatten(1, (-1, slices)).flatten(2, 3)


def from_slabs(slabs: Tensor, slices: int) -> Tensor:
    """(N, S, slices * M, x, y) -> (N, S * slices, M, x, y)."""
    return slabs.unflatten(2, (slices, -1)).flatten(1, 2)


def masked_charbonnier(error: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """Mean over the mask (N, z, 1, x, y) of the weighted modalities' errors (N, z, M, x, y)."""
    size = torch.sqrt(error.square() + CHARBONNIER**2) - CHARBONNIER
    return (size * weights * mask).sum() / (mask.sum() * error.shape[2]).clamp(min=1.0)


def difference_loss(error: Tensor, mask: Tensor, weights: Tensor) -> Tensor:
    """The same of the error's finite differences along x, y and z where both voxels lie in the mask."""
    terms = []
    for axis in (1, 3, 4):
        length = mask.shape[axis] - 1
        both = mask.narrow(axis, 0, length) * mask.narrow(axis, 1, length)
        terms.append(masked_charbonnier(error.diff(dim=axis), both, weights))
    return torch.stack(terms).sum()


def modality_weights(sampler: CropSampler, draws: int = 32) -> Tensor:
    """(M, 1, 1): how much less fine structure a modality has than the mean one, so that all count alike."""
    image = sampler.draw(draws, np.random.default_rng(0))
    mask = (image > -1.0).any(dim=2, keepdim=True).float()
    step = (image.diff(dim=3).abs() * mask[:, :, :, 1:] * mask[:, :, :, :-1]).sum(dim=(0, 1, 3, 4))
    weights = step.mean() / step
    return (weights / weights.mean())[:, None, None]


@torch.no_grad()
def principal_blocks(sampler: CropSampler, slices: int, count: int, draws: int = 256) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), first `count` components (count, D) and their deviations (count,) of the training blocks.

    Blocks of 8 x 8 x `slices` voxels, D = slices * M * 64, at least half of them brain; background takes the mean of
    its modality's brain in the block.
    """
    generator = np.random.default_rng(0)
    total, size = torch.zeros(0), 0
    outer = torch.zeros(0)
    for _ in range(draws):
        image = sampler.draw(1, generator)
        mask = (image > -1.0).any(dim=2, keepdim=True).float().expand_as(image)
        values, inside = blocks_of(image, slices), blocks_of(mask, slices)  # (B, slices, M, 64)
        kept = inside.mean(dim=(1, 2, 3)) >= 0.5
        values, inside = values[kept], inside[kept]
        level = (values * inside).sum(dim=(1, 3), keepdim=True) / inside.sum(dim=(1, 3), keepdim=True)
        flat = torch.where(inside > 0, values, level).flatten(1).double()
        total = flat.sum(dim=0) if size == 0 else total + flat.sum(dim=0)
        outer = flat.T @ flat if size == 0 else outer + flat.T @ flat
        size += len(flat)
    mean = total / size
    variances, vectors = torch.linalg.eigh(outer / size - torch.outer(mean, mean))
    components = vectors[:, -count:].flip(1).T
    return mean.float(), components.float().contiguous(), variances[-count:].flip(0).clamp(min=1e-8).sqrt().float()


def blocks_of(image: Tensor, slices: int) -> Tensor:
    """(N, z, M, x, y) -> (blocks, slices, M, 64)."""
    n, z, m, x, y = image.shape
    cut = image.reshape(n, z // slices, slices, m, x // BLOCK, BLOCK, y // BLOCK, BLOCK)
    return cut.permute(0, 1, 4, 6, 2, 3, 5, 7).reshape(-1, slices, m, BLOCK * BLOCK)


class SlabAutoencoderObjective:
    """The loss of one step: intensities and finite differences inside the brain, and where the brain is."""

    def __init__(self, sampler: CropSampler, slices: int, batch_size: int, modalities: Tensor | None = None) -> None:
        """`modalities` are the weights of their losses, measured on `sampler` where not given."""
        self.sampler, self.slices, self.batch_size = sampler, slices, batch_size
        self.weights = modality_weights(sampler) if modalities is None else modalities

    def __call__(
        self, module: nn.Module, step: int, generator: np.random.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        weight = next(module.parameters())
        image = to_device(self.sampler.draw(self.batch_size, generator), weight.device)
        slabs = to_slabs(image, self.slices).to(weight.dtype)
        noise = module.jitter_like(slabs)  # pyright: ignore[reportCallIssue]
        strength = torch.from_numpy(generator.uniform(0.0, self.sampler.settings.jitter, (self.batch_size, 1, 1, 1, 1)))
        rebuilt, logits = module(slabs, noise * to_device(strength, noise.device).to(noise))
        return self.terms(from_slabs(rebuilt.float(), self.slices), logits.float(), image)

    def terms(self, rebuilt: Tensor, logits: Tensor, image: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss and its parts from images (N, z, M, x, y) and brain logits (N, S, slices, x, y)."""
        mask = (image > -1.0).any(dim=2, keepdim=True).float()
        weights = to_device(self.weights, image.device)
        error = rebuilt - image
        terms = {
            "intensity": masked_charbonnier(error, mask, weights),
            "difference": difference_loss(error, mask, weights),
            "brain": BRAIN_WEIGHT * F.binary_cross_entropy_with_logits(logits.flatten(1, 2), mask[:, :, 0]),
        }
        squared = (error.detach().square() * mask).sum() / (mask.sum() * image.shape[2])
        return torch.stack(list(terms.values())).sum(), {**terms, "brain_psnr": -10.0 * torch.log10(squared / 4.0)}
