"""Whole cases through the depth-compressing autoencoder: to latents for training, and back as the engine does it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..engine.bundle.manifest import INT16_SCALE
from ..engine.sampling.slabs import decode_slabs, encode_slabs, masked_volume, unit_image
from ..engine.sampling.types import SampleRequest
from ..engine.scans.prepare import to_unit
from .networks.slab_autoencoder import SlabAutoencoder
from .objectives.slab_autoencoder import to_slabs
from .torch_components import TorchComponents


@torch.no_grad()
def encoded(autoencoder: SlabAutoencoder, stored: NDArray[np.uint8], slices: int) -> Tensor:
    """Z (C, S, h, w) float32 of a stored case (z, M, x, y); with bfloat16 products under autocast."""
    device = next(autoencoder.parameters()).device
    slabs = to_slabs(torch.from_numpy(to_unit(stored))[None], slices).to(device)
    return autoencoder.encode(slabs)[0].float()


def reconstructed(
    autoencoder: SlabAutoencoder,
    stored: NDArray[np.uint8],
    label: NDArray[np.uint8],
    slices: int,
    autocast: torch.dtype | None = None,
) -> NDArray[np.float32]:
    """Image (M, x, y, z) in 0..1 of a stored case (z, M, x, y) and its label (x, y, z), encoded and decoded."""
    parts = {
        "encoder": autoencoder.encoder,
        "aggregator_encode": autoencoder.aggregator.encode,
        "aggregator": autoencoder.aggregator.decode,
        "decoder": autoencoder.decoder,
    }
    run = TorchComponents(parts, next(autoencoder.parameters()).device, autocast, "mask-first").run
    features = encode_slabs(run, to_unit(stored), slices)
    latent = run("aggregator_encode", {"features": features[None]})["latent"]
    planes, brain = decode_slabs(run, run("aggregator", {"latent": latent})["features"][0], stored.shape[1])
    nobody = SampleRequest(0, 0, np.zeros(0, np.float32))
    made = masked_volume(nobody, unit_image(planes), brain, label, None)
    return made.image.astype(np.float32) / np.float32(INT16_SCALE)
