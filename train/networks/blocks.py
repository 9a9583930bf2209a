"""Building blocks that the networks share; `dims` is 2 for (N, C, H, W) and 3 for (N, C, D, H, W)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(dims: int, c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    """Convolution that keeps the size at stride 1 (odd kernels)."""
    layer = nn.Conv3d if dims == 3 else nn.Conv2d
    return layer(c_in, c_out, kernel, stride=stride, padding=kernel // 2)


def zero_init(layer: nn.Module) -> nn.Module:
    """Set a layer's parameters to zero, so that the branch it ends starts silent."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def sinusoids(position: Tensor, width: int, longest: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of Vaswani et al. 2017, section 3.5: (N,) -> (N, width)."""
    half = width // 2
    rates = torch.exp(-math.log(longest) * torch.arange(half, device=position.device, dtype=torch.float32) / half)
    angles = position.float()[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ResBlock(nn.Module):
    """Pre-activation residual block (GroupNorm, SiLU, conv, twice) that a vector embedding shifts after the first."""

    def __init__(self, dims: int, c_in: int, c_out: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(math.gcd(groups, c_in), c_in)
        self.conv1 = conv(dims, c_in, c_out)
        self.embed = nn.Linear(embedding, c_out)
        self.norm2 = nn.GroupNorm(math.gcd(groups, c_out), c_out)
        self.conv2 = zero_init(conv(dims, c_out, c_out))
        self.skip = conv(dims, c_in, c_out, kernel=1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # x (N, C, ...), embedding (N, E)
        h = self.conv1(F.silu(self.norm1(x)))
        shift = self.embed(F.silu(embedding))
        h = h + shift.reshape(*shift.shape, *[1] * (h.dim() - 2))
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class PublishedBlock(nn.Module):
    """The authors' residual block: (conv, GroupNorm, SiLU) twice, each with a skip, a vector embedding in between.

    `embedding` 0 leaves the embedding out.
    """

    def __init__(self, dims: int, c_in: int, c_out: int, embedding: int, groups: int) -> None:
        super().__init__()
        self.conv1 = conv(dims, c_in, c_out)
        self.norm1 = nn.GroupNorm(math.gcd(groups, c_out), c_out)
        self.skip = conv(dims, c_in, c_out, kernel=1) if c_in != c_out else nn.Identity()
        self.embed = nn.Linear(embedding, c_out) if embedding else None
        self.conv2 = conv(dims, c_out, c_out)
        self.norm2 = nn.GroupNorm(math.gcd(groups, c_out), c_out)
        nn.init.zeros_(self.norm2.weight)  # starts silent; the authors zero the convolution in front of it

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:  # x (N, C, ...), embedding (N, E)
        x = F.silu(self.norm1(self.conv1(x))) + self.skip(x)
        if self.embed is not None and embedding is not None:
            shift = self.embed(F.silu(embedding))
            x = x + shift.reshape(*shift.shape, *[1] * (x.dim() - 2))
        return x + F.silu(self.norm2(self.conv2(x)))


class Attention(nn.Module):
    """Single-head self-attention over all positions, residual."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(groups, channels), channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:  # (N, C, ...)
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (N, T, C)
        q, k, v = self.qkv(tokens).chunk(3, dim=2)
        weights = torch.softmax((q @ k.transpose(1, 2)).float() / math.sqrt(q.shape[2]), dim=2).to(v.dtype)
        return x + self.out(weights @ v).transpose(1, 2).reshape(x.shape)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by two along every spatial axis, then a convolution."""

    def __init__(self, dims: int, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = conv(dims, c_in, c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
