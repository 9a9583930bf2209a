"""Whether a trained system is one at all: what parity cannot see, because both sides of it would be equally wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..engine.errors import InvalidInputError
from ..train.checkpoint import read_tensors
from ..train.config import AnySystem, MaskFirstConfig
from ..train.networks.aggregator import Aggregator, MosaicAggregator
from ..train.networks.slab_autoencoder import NormalisedAggregator

CASES = 16  # of the cohort that is looked at
DEVIATION = (0.5, 2.0)  # of a channel of Z over the training cohort; 1 where the normalisation is the cohort's
MEAN = 0.5  # largest, either way, where the normalisation subtracts it
COLLAPSED = 0.01  # deviation of a slice latent's channel below which it carries nothing


def latent_faults(checkpoint: Path, config: AnySystem, networks: Mapping[str, nn.Module]) -> list[str]:
    """What is wrong with the cohort's latents under the stored normalisation, a line each.

    Empty where they are sound, and where the directory has no latents any more.

    Raises:
        InvalidInputError: the stored latents cannot be read, or do not fit the system.
    """
    latents = cohort_latents(checkpoint, config, CASES)
    if latents is None:
        return []
    z, scale = _normalised(torch.from_numpy(latents), config, networks["aggregator"])
    axes = (0, *range(2, z.dim()))
    centred = not isinstance(networks["aggregator"], MosaicAggregator)  # whose mean is learned, not subtracted
    within = f" and within {MEAN:g} of 0" if centred else ""
    faults = []
    for channel, (deviation, mean) in enumerate(zip(z.std(dim=axes).tolist(), z.mean(dim=axes).tolist(), strict=True)):
        if not DEVIATION[0] <= deviation <= DEVIATION[1] or (centred and abs(mean) > MEAN):
            faults.append(
                f"Z channel {channel} of the training cohort has deviation {deviation:.3g} and mean {mean:.3g} under "
                f"the stored normalisation, must be {DEVIATION[0]:g} to {DEVIATION[1]:g}{within}: "
                "the aggregator was not measured on this autoencoder"
            )
    kind = "Z" if isinstance(config, MaskFirstConfig) else "slice latent"
    faults += [
        f"{kind} channel {channel} has deviation {value:.2g} over the training cohort, must be above "
        f"{COLLAPSED:g}: it collapsed (autoencoder_loss.kl too large?)"
        for channel, value in enumerate(scale.flatten().tolist())
        if value < COLLAPSED
    ]
    return faults


def decodable_latents(checkpoint: Path, config: AnySystem, cases: int) -> NDArray[np.float32] | None:
    """The cohort's latents as the decoding components take them: slice latents as stored, Z normalised.

    Raises:
        InvalidInputError: the files cannot be read, or are of another system.
    """
    latents = cohort_latents(checkpoint, config, cases)
    if latents is None or not isinstance(config, MaskFirstConfig):
        return latents
    found = read_tensors(checkpoint / "latents" / "normalisation.safetensors")
    return ((latents - found["mean"].numpy()) / found["scale"].numpy()).astype(np.float32)


@torch.no_grad()
def _normalised(latents: Tensor, config: AnySystem, network: nn.Module) -> tuple[Tensor, Tensor]:
    """The cohort's latents as normalised Z, and the deviations that the normalisation divides by."""
    if isinstance(config, MaskFirstConfig):
        volumes = cast(NormalisedAggregator, network)
        return (latents - volumes.mean) / volumes.scale, volumes.scale
    aggregator = cast(Aggregator, network)
    return aggregator.encode(latents).float(), aggregator.get_buffer("normalisation.scale")


def cohort_latents(checkpoint: Path, config: AnySystem, cases: int) -> NDArray[np.float32] | None:
    """Latents of the training cohort's first cases as the directory has them, float32; None where it has none.

    Slice latents (cases, D, c, h, w), or in the mask-first form Z before normalisation (cases, C, S, h, w).

    Raises:
        InvalidInputError: the file cannot be read, or is of another system.
    """
    path = checkpoint / "latents" / "latents.npy"
    if not path.is_file():
        return None
    try:
        latents = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{path}: cannot be read ({error}); remove it to export without") from error
    if latents.shape[2:] != _latent_shape(config):
        raise InvalidInputError(f"{path}: shape {latents.shape} does not fit the system; remove it to export without")
    return np.asarray(latents[:cases, 0], np.float32)


def _latent_shape(config: AnySystem) -> tuple[int, ...]:
    if isinstance(config, MaskFirstConfig):
        return config.latent_shape
    return config.grid.shape[2], *config.slice_shape
