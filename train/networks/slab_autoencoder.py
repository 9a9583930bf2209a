"""Depth-compressing autoencoder: slabs of neighbouring slices as channels of 2D networks, joined along z in between.

A slab is `slices` neighbouring slices of all modalities as channels, slice first: (S, slices * M, X, Y). The encoder
and the decoder see one slab at a time; what neighbouring slabs tell each other passes through the aggregator alone.

Beside the networks runs a linear shortcut: each block of 8 x 8 x `slices` voxels as its coefficients on a basis, which
starts as the principal components of the training blocks, and back. It travels with the features, four latent
channels as one channel of twice the resolution, so that training begins at the best linear code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import SlabAutoencoderConfig
from .blocks import conv, zero_init

BOUND = 5.0  # of the latents: z / sqrt(1 + z^2 / BOUND^2)
BLOCK = 8  # voxels of a latent cell in plane


def slab_conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """2D convolution that keeps the variance, biases zero; by default the signal sinks below the biases on the way."""
    layer = conv(2, c_in, c_out, kernel, stride)
    nn.init.kaiming_normal_(cast(Tensor, layer.weight), nonlinearity="linear")
    nn.init.zeros_(cast(Tensor, layer.bias))
    return layer


class RmsNorm(nn.Module):
    """Divides each position's channels by their root mean square (Zhang & Sennrich 2019): (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-5) * self.weight


class SlabBlock(nn.Module):
    """Residual block of RMS norm, 3x3, SiLU, 3x3 on (S, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RmsNorm(width)
        self.conv1 = slab_conv(width, width)
        self.conv2 = zero_init(slab_conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(self.norm(x))))


class DepthMix(nn.Module):
    """Residual block that shows each slab its two neighbours: concatenate, 1x1, SiLU, 3x3 on (N * S, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RmsNorm(width)
        self.join = slab_conv(3 * width, width, kernel=1)
        self.conv = zero_init(slab_conv(width, width))

    def forward(self, x: Tensor, slabs: int) -> Tensor:
        joined = with_neighbours(self.norm(x).unflatten(0, (-1, slabs)))
        return x + self.conv(F.silu(self.join(joined)))


def with_neighbours(planes: Tensor) -> Tensor:
    """Each plane of (N, D, C, H, W) with the one before and the one after, zeros at the ends: (N * D, 3 C, H, W)."""
    empty = torch.zeros_like(planes[:, :1])
    below, above = torch.cat([empty, planes[:, :-1]], dim=1), torch.cat([planes[:, 1:], empty], dim=1)
    return torch.cat([below, planes, above], dim=2).flatten(0, 1)


class SlabEncoder(nn.Module):
    """Slabs (S, slices * M, X, Y) in [-1, 1] -> features (S, widths[1] + c / 4, X/4, Y/4)."""

    def __init__(self, config: SlabAutoencoderConfig, modalities: int) -> None:
        super().__init__()
        fine, middle, _ = config.widths
        self.stem = slab_conv(4 * config.slices * modalities, fine)
        self.blocks = nn.Sequential(*[SlabBlock(fine) for _ in range(config.encoder_blocks[0])])
        self.down = slab_conv(fine, middle, stride=2)
        self.project = nn.Conv2d(config.slices * modalities, config.latent_channels, BLOCK, stride=BLOCK)

    def forward(self, image: Tensor) -> Tensor:
        x = self.down(self.blocks(self.stem(F.pixel_unshuffle(image, 2))))
        return torch.cat([x, F.pixel_shuffle(self.project(image), 2)], dim=1)


class SlabDecoder(nn.Module):
    """Features (S, widths[1] + c / 4, X/4, Y/4) -> image (S, slices * M, X, Y), brain logits (S, slices, X, Y).

    The image is about [-1, 1] and means nothing where the logit is negative.
    """

    def __init__(self, config: SlabAutoencoderConfig, modalities: int) -> None:
        super().__init__()
        fine, middle, _ = config.widths
        self.channels = config.slices * modalities, config.slices
        out = sum(self.channels)
        self.split = middle, config.latent_channels // 4
        self.expand = slab_conv(config.latent_channels, config.slices * modalities * BLOCK**2, kernel=1)
        self.up = slab_conv(middle, 4 * fine, kernel=1)
        self.blocks = nn.Sequential(*[SlabBlock(fine) for _ in range(config.decoder_blocks[0])])
        self.norm = RmsNorm(fine)
        self.shuffle = zero_init(slab_conv(fine, 4 * out))
        self.wide = slab_conv(out, config.fine_width)
        self.residual = zero_init(slab_conv(config.fine_width, out))  # without it a checkerboard stays

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        x, code = features.split(self.split, dim=1)
        x = self.blocks(F.pixel_shuffle(self.up(x), 2))
        coarse = F.pixel_shuffle(self.shuffle(F.silu(self.norm(x))), 2)
        linear = F.pixel_shuffle(self.expand(F.pixel_unshuffle(code, 2)), BLOCK)
        coarse = torch.cat([coarse[:, : self.channels[0]] + linear, coarse[:, self.channels[0] :]], dim=1)
        image, brain = (coarse + self.residual(F.silu(self.wide(coarse)))).split(self.channels, dim=1)
        return image, brain


class SlabAggregator(nn.Module):
    """Features of all slabs of a volume <-> Z (N, c, S, h, w); neighbouring slabs are mixed on both ways."""

    def __init__(self, config: SlabAutoencoderConfig) -> None:
        super().__init__()
        _, middle, coarse = config.widths
        c = config.latent_channels
        self.split = middle, c // 4
        self.encode_middle = _Level(middle, config.encoder_blocks[1])
        self.down = slab_conv(middle, coarse, stride=2)
        self.encode_coarse = _Level(coarse, config.encoder_blocks[2])
        self.norm = RmsNorm(coarse)
        self.to_latent = zero_init(slab_conv(coarse, c))
        self.from_latent = slab_conv(c, coarse)
        self.decode_coarse = _Level(coarse, config.decoder_blocks[2])
        self.up = slab_conv(coarse, 4 * middle, kernel=1)
        self.decode_middle = _Level(middle, config.decoder_blocks[1])

    def encode(self, features: Tensor) -> Tensor:
        """Features (N, S, C, H, W) -> Z (N, c, S, H/2, W/2), softly bounded."""
        slabs = features.shape[1]
        x, code = features.flatten(0, 1).split(self.split, dim=1)
        x = self.encode_coarse(self.down(self.encode_middle(x, slabs)), slabs)
        z = (self.to_latent(F.silu(self.norm(x))) + F.pixel_unshuffle(code, 2)).float()
        z = z * torch.rsqrt(1.0 + z.square() / BOUND**2)
        return z.unflatten(0, (-1, slabs)).transpose(1, 2)

    def decode(self, latent: Tensor) -> Tensor:
        """Z (N, c, S, h, w) -> features (N, S, C, 2h, 2w)."""
        slabs = latent.shape[2]
        z = latent.transpose(1, 2).flatten(0, 1)
        x = self.decode_coarse(self.from_latent(z), slabs)
        x = self.decode_middle(F.pixel_shuffle(self.up(x), 2), slabs)
        return torch.cat([x, F.pixel_shuffle(z, 2)], dim=1).unflatten(0, (-1, slabs))


class NormalisedAggregator(nn.Module):
    """An aggregator whose Z is free of the mean training latent and has unit deviation a channel."""

    def __init__(self, aggregator: SlabAggregator, latent: Sequence[int]) -> None:
        super().__init__()
        self.aggregator = aggregator
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(*latent))
        self.register_buffer("scale", torch.ones(latent[0], 1, 1, 1))

    def encode(self, features: Tensor) -> Tensor:
        """Features (N, S, C, H, W) -> normalised Z (N, c, S, h, w)."""
        return (self.aggregator.encode(features) - self.mean) / self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """Normalised Z -> features."""
        return self.aggregator.decode(latent * self.scale + self.mean)


class _Level(nn.Module):
    """Mixing along z, then residual blocks, all at one resolution."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.mix = DepthMix(width)
        self.blocks = nn.Sequential(*[SlabBlock(width) for _ in range(blocks)])

    def forward(self, x: Tensor, slabs: int) -> Tensor:
        return self.blocks(self.mix(x, slabs))


class SlabAutoencoder(nn.Module):
    """Encoder, aggregator and decoder together, as the autoencoder stage trains them."""

    def __init__(self, config: SlabAutoencoderConfig, modalities: int) -> None:
        super().__init__()
        self.encoder = SlabEncoder(config, modalities)
        self.aggregator = SlabAggregator(config)
        self.latent_channels = config.latent_channels
        self.decoder = SlabDecoder(config, modalities)

    @torch.no_grad()
    def start_from(self, mean: Tensor, components: Tensor, deviations: Tensor) -> None:
        """Set the linear shortcut to a basis of the blocks.

        Args:
            mean: (D,) of the blocks, D = slices * M * 8 * 8 in that order.
            components: (c, D) orthonormal rows.
            deviations: (c,) of the coefficients, which become 1.
        """
        weight = components / deviations[:, None]
        self.encoder.project.weight.copy_(weight.reshape(self.encoder.project.weight.shape))
        cast(Tensor, self.encoder.project.bias).copy_(-weight @ mean)
        expand = cast(nn.Conv2d, self.decoder.expand)
        expand.weight.copy_((components * deviations[:, None]).T.reshape(expand.weight.shape))
        cast(Tensor, expand.bias).copy_(mean)

    def encode(self, slabs: Tensor) -> Tensor:
        """Slabs (N, S, slices * M, X, Y) -> Z (N, c, S, X/8, Y/8)."""
        return self.aggregator.encode(self.encoder(slabs.flatten(0, 1)).unflatten(0, slabs.shape[:2]))

    def decode(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Z -> image (N, S, slices * M, X, Y), brain logits (N, S, slices, X, Y)."""
        image, brain = self.decoder(self.aggregator.decode(latent).flatten(0, 1))
        count = latent.shape[0], latent.shape[2]
        return image.unflatten(0, count), brain.unflatten(0, count)

    def jitter_like(self, slabs: Tensor) -> Tensor:
        """Standard normal noise of the shape of the slabs' Z."""
        n, s, _, x, y = slabs.shape
        return torch.randn(n, self.latent_channels, s, x // 8, y // 8, device=slabs.device)

    def forward(self, slabs: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction with `jitter`, like Z, added to the latents."""
        latent = self.encode(slabs)
        return self.decode((latent + jitter).to(slabs.dtype))
