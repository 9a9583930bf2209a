"""Slice VAE: q(z_i | x_i, m_i, l(i)) and its decoder, 2D, with an embedding l(i) of the slice's position.

In the published form (Kebaili et al. 2024) the first block of each half takes the place of the stem.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import SliceVaeConfig
from .blocks import Attention, PublishedBlock, ResBlock, Upsample, conv, sinusoids


class PositionEmbedding(nn.Module):
    """l(i): slice index (S,) -> vector (S, width); the index is taken relative to `depth` slices."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, position: Tensor) -> Tensor:
        return self.mlp(sinusoids(position.float() * (1000.0 / self.depth), self.width))


class Encoder(nn.Module):
    """Image (S, M, X, Y) in [-1, 1], one-hot label (S, L, X, Y), position (S,) -> mean, log variance (S, c, h, w)."""

    def __init__(self, config: SliceVaeConfig, modalities: int, classes: int, depth: int) -> None:
        super().__init__()
        self.unshuffle = config.unshuffle
        self.position = PositionEmbedding(config.position_width, depth)
        published = config.form == "published"
        block_type = PublishedBlock if published else ResBlock
        given, c = (modalities + classes) * config.unshuffle**2, config.widths[0]
        self.stem = nn.Identity() if published else conv(2, given, c)
        c = given if published else c
        stages: list[nn.Module] = []
        for width, stride in zip(config.widths, config.strides, strict=True):
            stages.append(conv(2, c, width, stride=stride) if stride > 1 else nn.Identity())
            c_in = width if stride > 1 else c
            for block in range(config.encoder_blocks):
                stages.append(block_type(2, c_in if block == 0 else width, width, config.position_width, config.groups))
            c = width
        self.stages = nn.ModuleList(stages)
        self.attention = Attention(c, config.groups) if config.attention else nn.Identity()
        self.norm = nn.GroupNorm(config.groups, c)
        self.head = conv(2, c, 2 * config.latent_channels)

    def forward(self, image: Tensor, label: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.position(position)
        x = torch.cat([image, label], dim=1)
        x = self.stem(F.pixel_unshuffle(x, self.unshuffle) if self.unshuffle > 1 else x)
        for stage in self.stages:
            x = stage(x, embedding) if isinstance(stage, ResBlock | PublishedBlock) else stage(x)
        mean, log_variance = self.head(F.silu(self.norm(self.attention(x)))).chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)


class Decoder(nn.Module):
    """Slice latent (S, c, h, w), position (S,) -> image (S, M, X, Y) and label logits (S, L, X, Y)."""

    def __init__(self, config: SliceVaeConfig, modalities: int, classes: int, depth: int) -> None:
        super().__init__()
        self.unshuffle, self.modalities, self.classes = config.unshuffle, modalities, classes
        self.position = PositionEmbedding(config.position_width, depth)
        widths, strides = config.widths[::-1], config.strides[::-1]
        published = config.form == "published"
        block_type = PublishedBlock if published else ResBlock
        self.stem = nn.Identity() if published else conv(2, config.latent_channels, widths[0])
        self.attention = Attention(widths[0], config.groups) if config.attention else nn.Identity()
        stages: list[nn.Module] = []
        c = config.latent_channels if published else widths[0]
        for level, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            for _ in range(config.decoder_blocks):
                stages.append(block_type(2, c, width, config.position_width, config.groups))
                c = width
            following = widths[min(level + 1, len(widths) - 1)]
            if stride > 1:
                stages.append(Upsample(2, width, following))
            elif following != width:
                stages.append(conv(2, width, following))
            c = following
        self.stages = nn.ModuleList(stages)
        self.norm = nn.GroupNorm(config.groups, widths[-1])
        # a full-resolution convolution after the pixel shuffle: without it a checkerboard shows in tumours
        fine = config.fine_width if config.unshuffle > 1 else widths[-1]
        self.shuffle = conv(2, widths[-1], fine * config.unshuffle**2) if config.unshuffle > 1 else nn.Identity()
        self.head = conv(2, fine, modalities + classes, kernel=1 if published else 3)

    def forward(self, latent: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.position(position)
        x = self.attention(self.stem(latent))
        for stage in self.stages:
            x = stage(x, embedding) if isinstance(stage, ResBlock | PublishedBlock) else stage(x)
        x = F.silu(self.norm(x))
        if self.unshuffle > 1:
            x = F.silu(F.pixel_shuffle(self.shuffle(x), self.unshuffle))
        image, logits = self.head(x).split([self.modalities, self.classes], dim=1)
        return image, logits


class SliceVae(nn.Module):
    """Encoder and decoder together, as the autoencoder stage trains them."""

    def __init__(self, config: SliceVaeConfig, modalities: int, classes: int, depth: int) -> None:
        super().__init__()
        self.encoder = Encoder(config, modalities, classes, depth)
        self.decoder = Decoder(config, modalities, classes, depth)

    def forward(self, image: Tensor, label: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reconstruction from one draw of q: image, label logits, mean, log variance."""
        mean, log_variance = self.encoder(image, label, position)
        latent = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return *self.decoder(latent, position), mean, log_variance
