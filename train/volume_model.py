"""The engine's model of a mask-first system that is still being trained, so that it is sampled as it will be."""

from __future__ import annotations

import torch
from torch import nn

from ..engine.anatomy.anatomies import anatomies_sha256
from ..engine.bundle.manifest import MaskFirst, MaskMaps, NoiseSchedule
from ..engine.conditions.columns import COLUMNS
from ..engine.sampling.mask_first import MaskFirstModel
from ..engine.sampling.types import RunComponent
from .config import MaskFirstConfig
from .drafts import DraftLevels
from .mask_set import MapScale
from .networks.slab_autoencoder import NormalisedAggregator, SlabAutoencoder
from .precision import reduced_type
from .torch_components import TorchComponents

_NO_SCALE = MapScale((), ())  # where no mask is drawn


def volume_model(
    config: MaskFirstConfig,
    schedule: NoiseSchedule,
    source: float = 1.0,
    levels: DraftLevels = (),
    scale: MapScale = _NO_SCALE,
    *,
    refined: bool = False,
) -> MaskFirstModel:
    """Without grain: what the networks make is looked at, not what is laid over it.

    Args:
        config: of the system.
        schedule: its noise.
        source: 1 draws images as of real scans, 0 as of phantoms.
        levels: of drafts, where images are made.
        scale: of distance maps, where masks are drawn.
        refined: whether a refiner follows the decoder.
    """
    maps = MaskMaps(config.maps_shape, scale.mean, scale.std)
    brains, no_grain = anatomies_sha256(), ()
    form = MaskFirst(config.autoencoder.slices, maps, config.mask_sampling, source, levels, brains, no_grain)
    shape, tissues = config.latent_shape, len(config.tissues)
    return MaskFirstModel(schedule, shape, config.grid, config.modalities, tissues, len(COLUMNS), form, refined)


def sampling_networks(
    autoencoder: SlabAutoencoder,
    aggregator: NormalisedAggregator,
    denoiser: nn.Module,
    device: torch.device,
    refiner: nn.Module | None = None,
) -> RunComponent:
    """Computes what images around given masks are made by, products in bfloat16 where the device has it."""
    modules = {
        "encoder": autoencoder.encoder,
        "aggregator_encode": aggregator.encode,
        "denoiser": denoiser,
        "aggregator": aggregator.decode,
        "decoder": autoencoder.decoder,
    }
    refined = {} if refiner is None else {"refiner": refiner}
    return TorchComponents(modules | refined, device, reduced_type(device), "mask-first").run
