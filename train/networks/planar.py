"""UNet over volumes whose layers are planes: 3x3 convolutions in plane and a mixing of three neighbours along depth.

Planes lie on the batch axis, (N * D, C, H, W), so everything is a 2D convolution. Height, width and depth are halved
once a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import PlanarConfig
from .blocks import zero_init
from .denoiser import Coordinates, EllipsoidMap, TimeEmbedding
from .slab_autoencoder import slab_conv, with_neighbours

FREQUENCIES = 64  # sinusoids of the timestep


class VolumeNorm(nn.Module):
    """Divides a volume's planes by the root mean square of them all, so that places keep their relative amplitudes.

    It is the mean of the planes' means: a runtime that adds half a million numbers in a row loses six bits of float32.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor, depth: int) -> Tensor:  # (N * D, C, H, W)
        volume = x.unflatten(0, (-1, depth))
        power = volume.square().mean(dim=(3, 4), keepdim=True).mean(dim=(1, 2), keepdim=True)
        return (volume * torch.rsqrt(power + 1e-5) * self.weight).flatten(0, 1)


class PlanarBlock(nn.Module):
    """Residual block: norm, 3x3, scale and shift by the embedding, SiLU, mixing with the neighbouring planes."""

    def __init__(self, c_in: int, c_out: int, embedding: int) -> None:
        super().__init__()
        self.norm = VolumeNorm(c_in)
        self.conv = slab_conv(c_in, c_out)
        self.embed = zero_init(nn.Linear(embedding, 2 * c_out))
        self.mix = zero_init(slab_conv(3 * c_out, c_out, kernel=1))
        self.skip = slab_conv(c_in, c_out, kernel=1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor, depth: int) -> Tensor:  # x (N * D, C, H, W), embedding (N, E)
        h = self.conv(self.norm(x, depth)).unflatten(0, (-1, depth))
        scale, shift = self.embed(embedding)[:, None, :, None, None].chunk(2, dim=2)
        h = F.silu(h * (1.0 + scale) + shift)
        return self.skip(x) + self.mix(with_neighbours(h))


class PlanarAttention(nn.Module):
    """Multi-head self-attention over all positions of a volume, residual."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = VolumeNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor, depth: int) -> Tensor:  # (N * D, C, H, W)
        c, height, width = x.shape[1:]
        tokens = self.norm(x, depth).unflatten(0, (-1, depth)).permute(0, 1, 3, 4, 2).flatten(1, 3)  # (N, T, C)
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, dim=2))
        weights = torch.softmax((q @ k.transpose(2, 3)).float() / math.sqrt(c // self.heads), dim=3).to(v.dtype)
        made = self.out((weights @ v).transpose(1, 2).flatten(2))
        return x + made.unflatten(1, (depth, height, width)).permute(0, 1, 4, 2, 3).flatten(0, 1)


class PlanarDown(nn.Module):
    """Half the planes, half the height and width: pairs of planes as channels, then a 3x3 of stride 2."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = slab_conv(2 * c_in, c_out, stride=2)

    def forward(self, x: Tensor, depth: int) -> Tensor:
        pairs = x.unflatten(0, (-1, depth // 2, 2)).flatten(2, 3)
        return self.conv(pairs.flatten(0, 1))


class PlanarUp(nn.Module):
    """Twice the planes, height and width: a 1x1 to eight times the channels, shuffled into place."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = slab_conv(c_in, 8 * c_out, kernel=1)

    def forward(self, x: Tensor, depth: int) -> Tensor:  # planes before
        x = F.pixel_shuffle(self.conv(x), 2).unflatten(0, (-1, depth))  # (N, D, 2 C, 2 H, 2 W)
        return x.unflatten(2, (2, -1)).flatten(1, 2).flatten(0, 1)


class PlanarUNet(nn.Module):
    """(N, C, D, H, W) and an embedding (N, E) -> (N, C', D, H, W); one skip a residual block."""

    def __init__(self, config: PlanarConfig, c_in: int, c_out: int) -> None:
        super().__init__()
        widths, e = config.widths, config.embedding
        self.stem = slab_conv(c_in, widths[0])
        self.down, self.up, self.shrink, self.grow = (nn.ModuleList() for _ in range(4))
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList([PlanarBlock(width, width, e) for _ in range(config.blocks)]))
            self.up.append(nn.ModuleList([PlanarBlock(2 * width, width, e) for _ in range(config.blocks)]))
            if level + 1 < len(widths):
                self.shrink.append(PlanarDown(width, widths[level + 1]))
                self.grow.append(PlanarUp(widths[level + 1], width))
        self.middle1 = PlanarBlock(widths[-1], widths[-1], e)
        self.attention = PlanarAttention(widths[-1], config.heads)
        self.middle2 = PlanarBlock(widths[-1], widths[-1], e)
        self.norm = VolumeNorm(widths[0])
        self.head = zero_init(slab_conv(widths[0], c_out))

    def forward(self, volume: Tensor, embedding: Tensor) -> Tensor:
        depth, levels = volume.shape[2], len(self.down)
        x = self.stem(volume.transpose(1, 2).flatten(0, 1))
        skips: list[Tensor] = []
        for level in range(levels):
            for block in cast(nn.ModuleList, self.down[level]):
                x = block(x, embedding, depth >> level)
                skips.append(x)
            if level + 1 < levels:
                x = self.shrink[level](x, depth >> level)
        lowest = depth >> (levels - 1)
        x = self.middle2(self.attention(self.middle1(x, embedding, lowest), lowest), embedding, lowest)
        for level in reversed(range(levels)):
            for block in cast(nn.ModuleList, self.up[level]):
                x = block(torch.cat([x, skips.pop()], dim=1), embedding, depth >> level)
            if level:
                x = self.grow[level - 1](x, depth >> level)
        return self.head(F.silu(self.norm(x, depth))).unflatten(0, (-1, depth)).transpose(1, 2)


class MaskDenoiser(nn.Module):
    """Noisy maps (N, 3, z, x, y), timestep (N,), normalised condition (N, K), its mask (N,) -> prediction.

    Works on blocks of 2 x 2 x 2 as channels. A mask of 0 puts the learned null condition in.
    """

    def __init__(self, config: PlanarConfig, maps: Sequence[int], columns: Sequence[str]) -> None:
        super().__init__()
        channels, *size = maps
        space = [n // 2 for n in size]
        self.time = TimeEmbedding(FREQUENCIES, config.embedding)
        self.tau = nn.Sequential(
            nn.Linear(len(columns), config.embedding), nn.SiLU(), nn.Linear(config.embedding, config.embedding)
        )
        self.null = nn.Parameter(torch.zeros(config.embedding))
        self.ellipsoid = EllipsoidMap(space, columns, (("ncr_share", "et_share"), ("ncr_share",)))
        self.coordinates = Coordinates(space)
        self.unet = PlanarUNet(config, 8 * channels + 3 + 3, 8 * channels)

    def forward(self, sample: Tensor, timestep: Tensor, condition: Tensor, condition_mask: Tensor) -> Tensor:
        dtype = self.null.dtype
        keep = condition_mask[:, None]
        told = keep.to(dtype) * self.tau(condition.to(dtype)) + (1.0 - keep).to(dtype) * self.null
        x = torch.cat(
            [
                to_blocks(sample).to(dtype),
                self.ellipsoid(condition, condition_mask).to(dtype),
                self.coordinates(sample).to(dtype),
            ],
            dim=1,
        )
        return from_blocks(self.unet(x, F.silu(self.time(timestep) + told)))


class ImageDenoiser(nn.Module):
    """Z_t (N, C, S, h, w), timestep (N,), tissues, draft like Z_t, source (N,), mask (N,) -> prediction like Z_t.

    `tissues` (N, L, z, X, Y) is the label at full resolution, one channel a tissue, 0 or 1; a learned linear map brings
    the voxels of each latent cell to it. `draft` is the latent of the brain as it is on average. `source` tells a real
    scan (1) from a phantom (0). `condition_mask` 0 hides tissues and draft.
    """

    def __init__(self, config: PlanarConfig, latent: Sequence[int], tissues: int, slices: int, code: int = 64) -> None:
        super().__init__()
        channels, *space = latent
        self.slices = slices
        self.time = TimeEmbedding(FREQUENCIES, config.embedding)
        self.sources = nn.Parameter(torch.zeros(2, config.embedding))
        self.null = nn.Parameter(torch.zeros(config.embedding))
        self.tissues = nn.Conv2d(slices * tissues, code, 8, stride=8, bias=False)
        self.coordinates = Coordinates(space)
        self.unet = PlanarUNet(config, 2 * channels + code + 3, channels)

    def forward(
        self, sample: Tensor, timestep: Tensor, tissues: Tensor, draft: Tensor, source: Tensor, condition_mask: Tensor
    ) -> Tensor:
        dtype = self.null.dtype
        which = source[:, None].to(dtype)
        hidden = (1.0 - condition_mask)[:, None].to(dtype)
        told = which * self.sources[1] + (1.0 - which) * self.sources[0] + hidden * self.null
        planes = tissues.to(dtype).unflatten(2, (-1, self.slices)).permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        code = self.tissues(planes.flatten(0, 1)).unflatten(0, planes.shape[:2]).transpose(1, 2)
        shown = torch.cat([draft.to(dtype), code], dim=1) * condition_mask[:, None, None, None, None].to(dtype)
        x = torch.cat([sample.to(dtype), shown, self.coordinates(sample).to(dtype)], dim=1)
        return self.unet(x, F.silu(self.time(timestep) + told))


def to_blocks(volume: Tensor) -> Tensor:
    """(N, C, 2 D, 2 H, 2 W) -> (N, 8 C, D, H, W)."""
    n, c, d, h, w = volume.shape
    cut = volume.reshape(n, c, d // 2, 2, h // 2, 2, w // 2, 2)
    return cut.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, 8 * c, d // 2, h // 2, w // 2)


def from_blocks(blocks: Tensor) -> Tensor:
    """(N, 8 C, D, H, W) -> (N, C, 2 D, 2 H, 2 W)."""
    n, c, d, h, w = blocks.shape
    cut = blocks.reshape(n, c // 8, 2, 2, 2, d, h, w)
    return cut.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(n, c // 8, 2 * d, 2 * h, 2 * w)
