"""The networks of a system, made from its configuration."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..engine.conditions.columns import ConditionColumn
from ..engine.errors import InvalidInputError
from .config import AnySystem, MaskFirstConfig, SystemConfig
from .latents import condition_names
from .networks.aggregator import Aggregator, latent_shape, make_aggregator
from .networks.denoiser import Denoiser
from .networks.refiner import Refiner
from .networks.slice_vae import SliceVae


def make_vae(config: SystemConfig) -> SliceVae:
    """The slice VAE of a system."""
    return SliceVae(config.vae, len(config.modalities), config.classes, config.grid.shape[2])


def make_system_aggregator(config: SystemConfig) -> Aggregator:
    """The aggregator of a system."""
    c, h, w = config.slice_shape
    return make_aggregator(config.aggregator, c, config.grid.shape[2], h, w)


def system_latent_shape(config: AnySystem) -> tuple[int, ...]:
    """Shape of Z without the batch axis."""
    if isinstance(config, MaskFirstConfig):
        return config.latent_shape
    c, h, w = config.slice_shape
    return latent_shape(config.aggregator, c, config.grid.shape[2], h, w)


def make_denoiser(config: SystemConfig, columns: Sequence[ConditionColumn]) -> Denoiser:
    """The denoiser of a system; the ellipsoid map learns the columns' normalisation from `columns`."""
    denoiser = Denoiser(config.denoiser, system_latent_shape(config), condition_names(config))
    if denoiser.ellipsoid is not None:
        places = [columns[i] for i in denoiser.ellipsoid.picks]
        denoiser.ellipsoid.column_mean.copy_(torch.tensor([c.mean for c in places]))
        denoiser.ellipsoid.column_std.copy_(torch.tensor([c.std for c in places]))
    return denoiser


def make_refiner(config: SystemConfig) -> Refiner:
    """The refiner of a system.

    Raises:
        InvalidInputError: the preset has none.
    """
    if config.refiner is None:
        raise InvalidInputError(f"preset {config.preset}: has no refiner stage")
    return Refiner(config.refiner, len(config.modalities), config.classes)
