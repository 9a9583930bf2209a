"""Whole volumes through the depth-compressing autoencoder: stored cases to latents, latents to images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ..engine.scans.prepare import LEVELS, to_unit
from .networks.slab_autoencoder import SlabAutoencoder
from .objectives.slab_autoencoder import from_slabs, to_slabs


@torch.no_grad()
def encoded(autoencoder: SlabAutoencoder, stored: NDArray[np.uint8], slices: int) -> Tensor:
    """Z (C, S, h, w) float32 of a stored case (z, M, x, y); with bfloat16 products under autocast."""
    device = next(autoencoder.parameters()).device
    slabs = to_slabs(torch.from_numpy(to_unit(stored))[None], slices).to(device)
    return autoencoder.encode(slabs)[0].float()


@torch.no_grad()
def decoded(
    autoencoder: SlabAutoencoder, latent: Tensor, slices: int, label: NDArray[np.uint8] | None = None
) -> NDArray[np.float32]:
    """Image (M, x, y, z) in 0..1 of Z (C, S, h, w).

    The brain is the largest piece of what the decoder, or `label` (x, y, z), says is brain, holes filled; outside it is
    exactly 0, inside at least the smallest stored value.
    """
    slabs, logits = autoencoder.decode(latent[None])
    image = (from_slabs(slabs.float(), slices)[0] + 1.0) / 2.0
    inside = logits.float()[0].flatten(0, 1).permute(1, 2, 0).cpu().numpy() > 0
    brain = _largest_piece(inside if label is None else inside | (label > 0))
    values = np.clip(image.permute(1, 2, 3, 0).cpu().numpy(), 1 / LEVELS, 1.0)
    return np.where(brain, values, 0.0).astype(np.float32)


def _largest_piece(brain: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, count = ndimage.label(brain)  # pyright: ignore[reportGeneralTypeIssues]
    if count > 1:
        brain = pieces == np.bincount(np.asarray(pieces).ravel())[1:].argmax() + 1
    return np.asarray(ndimage.binary_fill_holes(brain), bool)
