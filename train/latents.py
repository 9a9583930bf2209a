"""Slice latents of a whole cohort on disk: what the aggregator, the denoiser and the refiner train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ..engine.conditions.columns import BINARY_COLUMNS, COLUMNS
from ..engine.files import sha256_file
from ..engine.scans.prepare import to_unit
from .checkpoint import weights_path
from .config import AnySystem, SystemConfig
from .data.classes import class_labels, one_hot
from .data.cohort import Cohort
from .networks.aggregator import Aggregator, MosaicAggregator
from .networks.slice_vae import Encoder
from .precision import reduced_products
from .shared_store import filled

MIRRORS = 2  # each case as it is and mirrored left-right
STATISTICS_CASES = 256  # cases that latent statistics are measured on


@dataclass(frozen=True)
class LatentStore:
    """Slice latents (cases, 2, D, c, h, w) float16 memory-mapped, and the conditions (cases, 2, K) in their units."""

    latents: NDArray[np.float16]
    conditions: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.latents)


def load_volume(
    cohort: Cohort, case: int, mirrored: bool, config: SystemConfig, span: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Slices `span` (D, M, X, Y) in [-1, 1] and labels (D, X, Y) int64 of a case, mirrored along x where asked."""
    image, label = to_unit(cohort.slices(case)[span]), class_labels(cohort.label(case)[span], config)
    if mirrored:
        image, label = image[:, :, ::-1].copy(), label[:, ::-1].copy()
    return torch.from_numpy(image), torch.from_numpy(label)


def mirrored_conditions(conditions: NDArray[np.float64], columns: tuple[str, ...]) -> NDArray[np.float64]:
    """The conditions (cases, K) of the cases mirrored left-right."""
    mirrored = conditions.copy()
    mirrored[:, columns.index("x")] = 1.0 - mirrored[:, columns.index("x")]
    return mirrored


def encode_cohort(
    encoder: Encoder,
    cohort: Cohort,
    config: SystemConfig,
    directory: Path,
    fabric: Fabric,
    progress: Callable[[int, int], None],
) -> LatentStore:
    """Encode every case and its mirror image, or reuse what the same encoder made of the same cohort.

    Each of several processes, all of which have to call it, encodes its share.
    """
    folder = directory / "latents"
    folder.mkdir(exist_ok=True)
    shape = (len(cohort), MIRRORS, config.grid.shape[2], *config.slice_shape)
    key = {
        "encoder": sha256_file(weights_path(directory, "autoencoder")),
        "cases": [e.path.name for e in cohort.entries],
    }
    (latents,) = filled(
        folder,
        {"latents.npy": shape},
        key,
        lambda case: [encoded_case(encoder, cohort, config, case)],
        fabric,
        progress,
    )
    return LatentStore(latents, _both_ways(cohort, config))


def encode_in_memory(encoder: Encoder, cohort: Cohort, config: SystemConfig) -> LatentStore:
    """Encode a few cases and their mirror images."""
    encoded = [encoded_case(encoder, cohort, config, case) for case in range(len(cohort))]
    return LatentStore(np.stack(encoded).astype(np.float16), _both_ways(cohort, config))


def _both_ways(cohort: Cohort, config: SystemConfig) -> NDArray[np.float64]:
    """Conditions (cases, 2, K) of each case as it is and mirrored left-right."""
    columns = condition_names(config)
    conditions = cohort.conditions[:, : len(columns)]
    return np.stack([conditions, mirrored_conditions(conditions, columns)], axis=1)


@torch.no_grad()
def encoded_case(encoder: Encoder, cohort: Cohort, config: SystemConfig, case: int) -> NDArray[np.float32]:
    """Slice latents (2, D, c, h, w) of a case, as it is and mirrored left-right."""
    device = next(encoder.parameters()).device
    position = torch.arange(config.grid.shape[2], device=device)
    made = []
    for mirror in range(MIRRORS):
        image, label = load_volume(cohort, case, bool(mirror), config)
        with reduced_products(device):
            mean, _ = encoder(image.to(device), one_hot(label, config.classes).to(device), position)
        made.append(mean.float().cpu().numpy())
    return np.stack(made)


def condition_names(config: AnySystem) -> tuple[str, ...]:
    """Condition columns of a system: shares of tissues only where it has several."""
    return COLUMNS if config.classes > 2 else BINARY_COLUMNS


def draw_latents(
    store: LatentStore, size: int, generator: np.random.Generator
) -> tuple[Tensor, NDArray[np.int64], NDArray[np.int64]]:
    """Slice latents (N, D, c, h, w) float32 of random cases, with the cases and mirrors drawn."""
    cases, mirrors = generator.integers(len(store), size=size), generator.integers(2, size=size)
    picked = np.stack([store.latents[c, m] for c, m in zip(cases, mirrors, strict=True)])
    return torch.from_numpy(picked.astype(np.float32)), cases, mirrors


def measure_normalisation(aggregator: Aggregator, store: LatentStore) -> None:
    """Set the mean training latent and each channel's deviation around it."""
    sample = np.asarray(store.latents[:STATISTICS_CASES], np.float32)
    mean = sample.mean(axis=(0, 1))
    deviation = (sample - mean).std(axis=(0, 1, 2, 4, 5))
    aggregator.normalisation.mean.copy_(torch.from_numpy(mean))
    aggregator.normalisation.scale.copy_(torch.from_numpy(deviation)[:, None, None])


@torch.no_grad()
def measure_latent_scale(aggregator: MosaicAggregator, store: LatentStore) -> None:
    """Set the deviation of each channel of Z."""
    sample = torch.from_numpy(np.asarray(store.latents[:STATISTICS_CASES, 0], np.float32))
    mean = torch.cat([aggregator.posterior(chunk)[0] for chunk in sample.split(8)])
    aggregator.latent_scale.copy_(mean.std(dim=(0, 2, 3))[:, None, None])
