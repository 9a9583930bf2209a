"""Latents of whole volumes on disk, their normalisation, and the batches that the image denoiser sees of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.files import sha256_file
from ..engine.scans.prepare import to_unit
from .checkpoint import read_tensors, weights_path, write_json, write_tensors
from .config import MaskFirstConfig
from .data.cohort import Cohort
from .latents import MIRRORS, new_array
from .networks.slab_autoencoder import NormalisedAggregator, SlabAutoencoder
from .objectives.slab_autoencoder import to_slabs

FOLDER = "latents"


@dataclass(frozen=True)
class VolumeStore:
    """Latents (cases, 2, C, S, h, w) float16, memory-mapped: each case as it is and mirrored left-right."""

    latents: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.latents)


@torch.no_grad()
def encode_volumes(
    autoencoder: SlabAutoencoder,
    cohort: Cohort,
    config: MaskFirstConfig,
    directory: Path,
    progress: Callable[[int, int], None],
) -> VolumeStore:
    """Encode every case and its mirror image, or reuse what the same autoencoder made of the same cohort."""
    folder = directory / FOLDER
    folder.mkdir(exist_ok=True)
    key = {
        "encoder": sha256_file(weights_path(directory, "autoencoder")),
        "cases": [e.path.name for e in cohort.entries],
    }
    array, stamp = folder / "latents.npy", folder / "key.json"
    if not (array.is_file() and stamp.is_file() and json.loads(stamp.read_text()) == key):
        stamp.unlink(missing_ok=True)
        store = new_array(array, (len(cohort), MIRRORS, *config.latent_shape))
        device = next(autoencoder.parameters()).device
        for case in range(len(cohort)):
            for mirror in range(MIRRORS):
                image = to_unit(cohort.slices(case))
                image = image[:, :, ::-1].copy() if mirror else image
                slabs = to_slabs(torch.from_numpy(image)[None], config.autoencoder.slices).to(device)
                with torch.autocast(device.type, torch.bfloat16):
                    latent = autoencoder.encode(slabs)
                store[case, mirror] = latent[0].float().cpu().numpy()
            progress(case + 1, len(cohort))
        store.flush()
        save_normalisation(directory, *_measured_normalisation(store))
        write_json(stamp, key)
    return VolumeStore(np.load(array, mmap_mode="r"))


def save_normalisation(directory: Path, mean: Tensor, scale: Tensor) -> None:
    """Store the mean training latent (C, S, h, w) and each channel's deviation (C,)."""
    (directory / FOLDER).mkdir(exist_ok=True)
    path = directory / FOLDER / "normalisation.safetensors"
    write_tensors(path, {"mean": mean, "scale": scale[:, None, None, None]})


def _measured_normalisation(store: NDArray[np.float16]) -> tuple[Tensor, Tensor]:
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
    """The aggregator with the normalisation of a training directory.

    Raises:
        InvalidInputError: the cohort was not encoded yet.
    """
    normalised = NormalisedAggregator(autoencoder.aggregator, config.latent_shape)
    found = read_tensors(directory / FOLDER / "normalisation.safetensors")
    normalised.mean.copy_(found["mean"])
    normalised.scale.copy_(found["scale"])
    return normalised


class ImageVolumes:
    """Normalised latents of random cases with their tissues and sources."""

    def __init__(
        self, cohort: Cohort, store: VolumeStore, aggregator: NormalisedAggregator, sources: NDArray[np.float32]
    ) -> None:
        self.cohort, self.store, self.sources = cohort, store, sources
        self.mean, self.scale = aggregator.mean.cpu().numpy(), aggregator.scale.cpu().numpy()

    def draw(self, size: int, generator: np.random.Generator) -> tuple[NDArray[np.float32], tuple[Tensor, ...]]:
        """(N, C, S, h, w), then tissues (N, 3, z, x, y) and sources (N,)."""
        cases, mirrors = generator.integers(len(self.store), size=size), generator.integers(MIRRORS, size=size)
        pairs = list(zip(cases.tolist(), mirrors.tolist(), strict=True))
        clean = np.stack([self.store.latents[c, m].astype(np.float32) for c, m in pairs])
        labels = [self.cohort.label(c)[:, ::-1] if m else self.cohort.label(c) for c, m in pairs]
        tissues = torch.from_numpy(np.stack([tissue_planes(label) for label in labels]))
        normalised = ((clean - self.mean) / self.scale).astype(np.float32)
        return normalised, (tissues, torch.from_numpy(self.sources[cases]))


def tissue_planes(label: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Label (z, x, y) -> (3, z, x, y): NCR, ED, ET as 0 or 1."""
    return (label == np.array([1, 2, 3], np.uint8)[:, None, None, None]).astype(np.float32)
