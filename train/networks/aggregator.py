"""Aggregators: the stack of slice latents (N, D, c, h, w) <-> one volume latent Z, normalisation included."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AggregatorConfig
from .blocks import PublishedBlock, conv, zero_init

GROUPS = 32  # of GroupNorm in the mosaic's VAE


def latent_shape(config: AggregatorConfig, channels: int, depth: int, height: int, width: int) -> tuple[int, ...]:
    """Shape of Z without the batch axis: (C, D, h, w) for the stack, (C, H, W) for the mosaic.

    Raises:
        ValueError: a mosaic needs a square number of slices.
    """
    if config.kind == "stack":
        return channels, depth, height, width
    tiles = math.isqrt(depth)
    if tiles * tiles != depth:
        raise ValueError(f"a mosaic needs a square number of slices, not {depth}")
    return channels, tiles * height, tiles * width


class Normalisation(nn.Module):
    """Subtract the mean training latent and divide by each channel's deviation, both measured once."""

    def __init__(self, channels: int, depth: int, height: int, width: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(depth, channels, height, width))
        self.register_buffer("scale", torch.ones(channels, 1, 1))

    def apply_to(self, slices: Tensor) -> Tensor:
        """Raw slice latents (N, D, c, h, w) to normalised ones."""
        return (slices - self.mean) / self.scale

    def undo(self, slices: Tensor) -> Tensor:
        """The inverse of `apply_to`."""
        return slices * self.scale + self.mean


class StackAggregator(nn.Module):
    """Z is the normalised stack itself with channels first: (N, c, D, h, w)."""

    def __init__(self, channels: int, depth: int, height: int, width: int) -> None:
        super().__init__()
        self.normalisation = Normalisation(channels, depth, height, width)

    def encode(self, slices: Tensor) -> Tensor:
        """(N, D, c, h, w) -> Z."""
        return self.normalisation.apply_to(slices).transpose(1, 2)

    def decode(self, latent: Tensor) -> Tensor:
        """Z -> (N, D, c, h, w)."""
        return self.normalisation.undo(latent.transpose(1, 2))


class MosaicAggregator(nn.Module):
    """Slices as tiles of one image (N, c, H, W), passed through a small convolutional VAE of stride 1."""

    def __init__(self, config: AggregatorConfig, channels: int, depth: int, height: int, width: int) -> None:
        super().__init__()
        self.normalisation = Normalisation(channels, depth, height, width)
        self.tiles = math.isqrt(depth)
        wide, wider = config.widths
        self.encoder = nn.Sequential(
            PublishedBlock(2, channels, wide, 0, GROUPS), PublishedBlock(2, wide, wider, 0, GROUPS),
            conv(2, wider, 2 * channels), conv(2, 2 * channels, 2 * channels, kernel=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            PublishedBlock(2, channels, wider, 0, GROUPS), PublishedBlock(2, wider, wide, 0, GROUPS),
            zero_init(conv(2, wide, channels, kernel=1)),
        )  # fmt: skip
        self.latent_scale: Tensor
        self.register_buffer("latent_scale", torch.ones(channels, 1, 1))

    def mosaic(self, slices: Tensor) -> Tensor:
        """(N, D, c, h, w) -> (N, c, T h, T w), row by row."""
        n, _, c, h, w = slices.shape
        tiled = slices.reshape(n, self.tiles, self.tiles, c, h, w).permute(0, 3, 1, 4, 2, 5)
        return tiled.reshape(n, c, self.tiles * h, self.tiles * w)

    def unmosaic(self, image: Tensor) -> Tensor:
        """The inverse of `mosaic`."""
        n, c, height, width = image.shape
        h, w = height // self.tiles, width // self.tiles
        tiled = image.reshape(n, c, self.tiles, h, self.tiles, w).permute(0, 2, 4, 1, 3, 5)
        return tiled.reshape(n, self.tiles * self.tiles, c, h, w)

    def posterior(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of Z before scaling."""
        mean, log_variance = self.encoder(self.mosaic(self.normalisation.apply_to(slices))).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    def reconstruct(self, latent: Tensor) -> Tensor:
        """Unscaled Z -> slice latents."""
        return self.normalisation.undo(self.unmosaic(latent + self.decoder(latent)))

    def loss(self, slices: Tensor, kl_weight: float) -> Tensor:
        """L1 of the reconstruction in normalised units plus weighted KL."""
        mean, log_variance = self.posterior(slices)
        latent = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        rebuilt = self.normalisation.apply_to(self.reconstruct(latent))
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()
        return F.l1_loss(rebuilt, self.normalisation.apply_to(slices)) + kl_weight * kl

    def encode(self, slices: Tensor) -> Tensor:
        """(N, D, c, h, w) -> Z of unit deviation."""
        return self.posterior(slices)[0] / self.latent_scale

    def decode(self, latent: Tensor) -> Tensor:
        """Z -> (N, D, c, h, w)."""
        return self.reconstruct(latent * self.latent_scale)


Aggregator = StackAggregator | MosaicAggregator


def make_aggregator(config: AggregatorConfig, channels: int, depth: int, height: int, width: int) -> Aggregator:
    """The aggregator that the configuration names."""
    if config.kind == "stack":
        return StackAggregator(channels, depth, height, width)
    return MosaicAggregator(config, channels, depth, height, width)
