"""Latents of whole volumes on disk, their normalisation, and the batches that the image denoiser sees of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ..engine.files import sha256_file
from .checkpoint import read_tensors, weights_path, write_tensors
from .config import MaskFirstConfig
from .data.cohort import Cohort
from .data.draws import chances, real_cases
from .drafts import DRAFTS_VERSION, DraftLevels, Drafts, load_levels, save_levels
from .grain import GRAIN_VERSION, measured_grain, save_grain
from .latents import MIRRORS
from .networks.slab_autoencoder import NormalisedAggregator, SlabAutoencoder
from .precision import reduced_products
from .prefetch import DrawnAhead
from .shared_store import filled
from .slab_volumes import encoded

FOLDER = "latents"


Latents = NDArray[np.float16]  # (cases, 2, C, S, h, w): each case as it is and mirrored left-right

DRAFT_JITTER = 0.3
"""Most deviation of the noise on normalised drafts: those of scans and of drawn brains differ by less."""


@dataclass(frozen=True)
class Encoded:
    """Latents of cases and of their drafts."""

    images: Latents
    drafts: Latents


def encode_volumes(
    autoencoder: SlabAutoencoder,
    cohort: Cohort,
    config: MaskFirstConfig,
    directory: Path,
    fabric: Fabric,
    progress: Callable[[int, int], None],
) -> Encoded:
    """Latents of every case and draft, memory-mapped: encoded, or what the same autoencoder made of the same cohort.

    Each of several processes, all of which have to call it, encodes its share.
    """
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    key = {
        "encoder": sha256_file(weights_path(directory, "autoencoder")),
        "cases": [e.path.name for e in cohort.entries],
        "drafts": DRAFTS_VERSION,
        "grain": GRAIN_VERSION,
    }
    shape = (len(cohort), MIRRORS, *config.latent_shape)
    made, levels = Drafts(cohort), cache(lambda: load_levels(folder))
    images, drafts = filled(
        folder, {"latents.npy": shape, "drafts.npy": shape}, key,
        lambda case: encoded_case(autoencoder, made, case, levels(), config), fabric, progress,
        begin=lambda: save_levels(folder, made.measured_levels(len(config.tissues))),
        finish=lambda: _finish(cohort, directory),
    )  # fmt: skip
    return Encoded(images, drafts)


def _finish(cohort: Cohort, directory: Path) -> None:
    save_normalisation(directory, *_measured_normalisation(np.load(directory / FOLDER / "latents.npy", "r")))
    save_grain(directory / FOLDER, measured_grain(cohort))


def encode_unseen(autoencoder: SlabAutoencoder, cohort: Cohort, config: MaskFirstConfig, directory: Path) -> Encoded:
    """Latents in memory of cases that are no part of the training; their drafts have the levels of those that are."""
    made, levels = Drafts(cohort), load_levels(directory / FOLDER)
    both = [encoded_case(autoencoder, made, case, levels, config) for case in range(len(cohort))]
    images, drafts = (np.stack(part).astype(np.float16) for part in zip(*both, strict=True))
    return Encoded(images, drafts)


def encoded_case(
    autoencoder: SlabAutoencoder, drafts: Drafts, case: int, levels: DraftLevels, config: MaskFirstConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Latents (2, C, S, h, w) of a case and of its draft, as they are and mirrored left-right."""
    image, slices = drafts.cohort.slices(case), config.autoencoder.slices
    return _both_ways(autoencoder, image, slices), _both_ways(autoencoder, drafts.stored(case, levels), slices)


def _both_ways(autoencoder: SlabAutoencoder, stored: NDArray[np.uint8], slices: int) -> NDArray[np.float32]:
    with reduced_products(next(autoencoder.parameters()).device):
        both = [encoded(autoencoder, image, slices).cpu().numpy() for image in (stored, stored[:, :, ::-1])]
    return np.stack(both)


def save_normalisation(directory: Path, mean: Tensor, scale: Tensor) -> None:
    """Store the mean training latent (C, S, h, w) and each channel's deviation (C,)."""
    (directory / FOLDER).mkdir(exist_ok=True)
    path = directory / FOLDER / "normalisation.safetensors"
    write_tensors(path, {"mean": mean, "scale": scale[:, None, None, None]})


def _measured_normalisation(store: Latents) -> tuple[Tensor, Tensor]:
    """Mean training latent, and each channel's deviation around it."""
    mean = np.zeros(store.shape[2:], np.float64)
    for case in store:
        mean += np.asarray(case, np.float64).mean(axis=0) / len(store)
    power = np.zeros(store.shape[2], np.float64)
    for case in store:
        power += np.square(np.asarray(case, np.float64) - mean).mean(axis=(0, 2, 3, 4)) / len(store)
    return torch.from_numpy(mean).float(), torch.from_numpy(np.sqrt(power)).float()


def normalised_aggregator(
    autoencoder: SlabAutoencoder, config: MaskFirstConfig, directory: Path
) -> NormalisedAggregator:
    """The aggregator, where it is, with the normalisation of a training directory.

    Raises:
        InvalidInputError: the cohort was not encoded yet.
    """
    normalised = NormalisedAggregator(autoencoder.aggregator, config.latent_shape)
    found = read_tensors(directory / FOLDER / "normalisation.safetensors")
    normalised.mean.copy_(found["mean"])
    normalised.scale.copy_(found["scale"])
    return normalised.to(next(autoencoder.parameters()).device)


class ImageVolumes:
    """Normalised latents of random cases with their tissues, drafts and sources."""

    def __init__(self, cohort: Cohort, encoded: Encoded, aggregator: NormalisedAggregator) -> None:
        self.cohort, self.encoded = cohort, encoded
        self.chances, self.sources = chances(cohort), real_cases(cohort).astype(np.float32)
        self.mean, self.scale = aggregator.mean.cpu().numpy(), aggregator.scale.cpu().numpy()
        self._ahead = DrawnAhead(self._volumes)

    def draw(self, size: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], tuple[Tensor, ...]]:
        """(N, C, S, h, w), then tissues (N, 3, z, x, y), drafts like the latents, a little noisy, and sources (N,)."""
        return self._ahead(size, generator)

    def _volumes(self, size: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], tuple[Tensor, ...]]:
        cases = generator.choice(len(self.chances), size=size, p=self.chances)
        mirrors = generator.integers(MIRRORS, size=size)
        pairs = list(zip(cases.tolist(), mirrors.tolist(), strict=True))
        labels = [self.cohort.label(c)[:, ::-1] if m else self.cohort.label(c) for c, m in pairs]
        tissues = torch.from_numpy(np.stack([tissue_planes(label) for label in labels]))
        drafts = self._normalised(self.encoded.drafts, pairs)
        deviations = generator.uniform(0, DRAFT_JITTER, (size, *[1] * (drafts.ndim - 1))).astype(np.float32)
        drafts += deviations * generator.standard_normal(drafts.shape, np.float32)
        told = (tissues, torch.from_numpy(drafts), torch.from_numpy(self.sources[cases]))
        return self._normalised(self.encoded.images, pairs), told

    def _normalised(self, latents: Latents, pairs: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        found = np.stack([latents[case, mirror].astype(np.float32) for case, mirror in pairs])
        return ((found - self.mean) / self.scale).astype(np.float32)


def tissue_planes(label: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Label (z, x, y) -> (3, z, x, y): NCR, ED, ET as 0 or 1."""
    return (label == np.array([1, 2, 3], np.uint8)[:, None, None, None]).astype(np.float32)
