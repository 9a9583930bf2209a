"""Conditional denoiser: a UNet over the volume latent, 3D for a stack and 2D for a mosaic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DenoiserConfig
from .blocks import Attention, PublishedBlock, ResBlock, Upsample, conv, sinusoids, zero_init


class EllipsoidMap(nn.Module):
    """The condition's centre and bounding box drawn as soft ellipsoids at latent resolution.

    The first holds the whole tumour; each of `shells`, condition columns whose sum is a share of the volume, makes a
    smaller one with the same centre that holds that share. Without the map the place of the tumour is hardly followed;
    with the null condition it is empty.
    Output (N, 1 + shells, D, h, w): sigmoid((s - r) * sharpness) with r the normalised radius of the ellipsoid of the
    box and s the cube root of the share.
    """

    def __init__(
        self,
        shape: Sequence[int],
        columns: Sequence[str],
        shells: Sequence[Sequence[str]] = (),
        sharpness: float = 4.0,
    ) -> None:
        super().__init__()
        shares = list(dict.fromkeys(name for shell in shells for name in shell))
        self.picks = [columns.index(name) for name in ("x", "y", "z", "w", "h", "d", *shares)]
        self.shells = [[shares.index(name) for name in shell] for shell in shells]
        self.sharpness = sharpness
        self.column_mean: Tensor
        self.column_std: Tensor
        self.axis_x: Tensor
        self.axis_y: Tensor
        self.axis_z: Tensor
        self.register_buffer("column_mean", torch.zeros(len(self.picks)))
        self.register_buffer("column_std", torch.ones(len(self.picks)))
        depth, height, width = shape
        for name, n in (("axis_x", height), ("axis_y", width), ("axis_z", depth)):
            self.register_buffer(name, (torch.arange(n, dtype=torch.float32) + 0.5) / n, persistent=False)

    def forward(self, condition: Tensor, mask: Tensor) -> Tensor:  # (N, K) normalised, (N,)
        picked = condition[:, self.picks] * self.column_std + self.column_mean
        distances = [axis[None] - picked[:, i, None] for i, axis in enumerate((self.axis_x, self.axis_y, self.axis_z))]
        return self.draw(distances, picked[:, 3:6], picked[:, 6:], mask)

    def draw(self, distances: Sequence[Tensor], box: Tensor, shares: Tensor, mask: Tensor) -> Tensor:
        """The map from the distance (N, n) to the centre along x, y, z, the box (N, 3) and the shares of the shells.

        Distances and box are shares of the field of view.
        """
        terms = [(d / (box[:, i, None].clamp(0.01, 1.0) / 2)).square() for i, d in enumerate(distances)]
        x, y, z = terms
        radius = torch.sqrt(z[:, :, None, None] + x[:, None, :, None] + y[:, None, None, :] + 1e-6)
        sizes = [torch.ones_like(mask)]
        sizes += [shares[:, shell].sum(1).clamp(1e-3, 1.0).pow(1 / 3) for shell in self.shells]
        size = torch.stack(sizes, dim=1)[:, :, None, None, None]
        return torch.sigmoid((size - radius[:, None]) * self.sharpness) * mask[:, None, None, None, None]


class TimeEmbedding(nn.Sequential):
    """Timestep (N,) -> vector (N, width): sinusoids through two layers."""

    def __init__(self, frequencies: int, width: int) -> None:
        super().__init__(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.frequencies = frequencies

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(sinusoids(input, self.frequencies).to(self.get_parameter("0.weight").dtype))


class Coordinates(nn.Module):
    """Constant channels of each latent axis's position in -1..1: (1, dims, ...)."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        axes = [torch.linspace(-1.0, 1.0, n) if n > 1 else torch.zeros(1) for n in shape]
        self.grid: Tensor
        self.register_buffer("grid", torch.stack(torch.meshgrid(*axes, indexing="ij"))[None], persistent=False)

    def forward(self, like: Tensor) -> Tensor:
        return self.grid.to(like.dtype).expand(like.shape[0], *self.grid.shape[1:])


class Denoiser(nn.Module):
    """Z_t (N, C, ...), timestep (N,), normalised condition (N, K), condition mask (N,) -> prediction like Z_t.

    The prediction is noise or velocity, as the schedule says. A mask of 0 puts the learned null condition in.
    The light form has one skip a residual block; the published one (Kebaili et al. 2024) halves the size once less and
    has a skip after every layer of the way down.
    """

    def __init__(self, config: DenoiserConfig, shape: Sequence[int], columns: Sequence[str]) -> None:
        super().__init__()
        channels, *space = shape
        dims = len(space)
        self.published = config.form == "published"
        frequencies = config.time_width // 4 if self.published else config.widths[0]
        self.time = TimeEmbedding(frequencies, config.time_width)
        self.tau = nn.Sequential(
            nn.Linear(len(columns), config.condition_width),
            nn.SiLU(),
            nn.Linear(config.condition_width, config.time_width),
        )
        self.null = nn.Parameter(torch.zeros(config.time_width))
        self.ellipsoid = EllipsoidMap(space, columns, config.shells) if config.ellipsoid else None
        self.coordinates = Coordinates(space) if config.coordinates else None
        extra = (1 + len(config.shells) if config.ellipsoid else 0) + (dims if config.coordinates else 0)
        self.stem = conv(dims, channels + extra, config.widths[0])
        if self.published:
            self._build_published_levels(config, dims)
        else:
            self._build_levels(config, dims)
        self.norm = nn.GroupNorm(math.gcd(config.groups, config.widths[0]), config.widths[0])
        self.head = zero_init(conv(dims, config.widths[0], channels))

    def _build_levels(self, config: DenoiserConfig, dims: int) -> None:
        widths, e, g = config.widths, config.time_width, config.groups
        down: list[nn.Module] = []
        c = widths[0]
        for level, width in enumerate(widths):
            if level:
                down.append(conv(dims, c, c, stride=2))
            for _ in range(config.blocks):
                down.append(ResBlock(dims, c, width, e, g))
                c = width
        self.down = nn.ModuleList(down)
        self.middle1 = ResBlock(dims, c, c, e, g)
        self.attention = Attention(c, g) if config.attention else nn.Identity()
        self.middle2 = ResBlock(dims, c, c, e, g)
        up: list[nn.Module] = []
        for level, width in reversed(list(enumerate(widths))):
            up += [ResBlock(dims, 2 * width, width, e, g) for _ in range(config.blocks)]  # each takes one skip
            if level:
                up.append(Upsample(dims, width, widths[level - 1]))
        self.up = nn.ModuleList(up)

    def _build_published_levels(self, config: DenoiserConfig, dims: int) -> None:
        """The authors' levels: none at the first width, which is the stem's alone, and one block more on the way up."""
        widths, e, g = config.widths, config.time_width, config.groups
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        for level in range(1, len(widths)):
            before, width = widths[level - 1], widths[level]
            if level > 1:
                down.append(conv(dims, before, before, stride=2))
            down.append(PublishedBlock(dims, before, width, e, g))
            down += [PublishedBlock(dims, width, width, e, g) for _ in range(config.blocks - 1)]
            way_up: list[nn.Module] = [PublishedBlock(dims, 2 * width, width, e, g) for _ in range(config.blocks)]
            way_up.append(PublishedBlock(dims, width + before, before, e, g))
            if level > 1:
                way_up.append(Upsample(dims, before, before))
            up = way_up + up
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.middle1 = PublishedBlock(dims, widths[-1], widths[-1], e, g)
        self.attention = Attention(widths[-1], g) if config.attention else nn.Identity()
        self.middle2 = PublishedBlock(dims, widths[-1], widths[-1], e, g)

    def embed(self, timestep: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        """The vector (N, E) that every block adds: time plus condition or null."""
        dtype = self.null.dtype
        keep = mask[:, None].to(dtype)
        return self.time(timestep) + keep * self.tau(condition.to(dtype)) + (1.0 - keep) * self.null

    def forward(self, sample: Tensor, timestep: Tensor, condition: Tensor, condition_mask: Tensor) -> Tensor:
        embedding = self.embed(timestep, condition, condition_mask)
        parts = [sample]
        if self.ellipsoid is not None:
            parts.append(self.ellipsoid(condition, condition_mask).to(sample.dtype))
        if self.coordinates is not None:
            parts.append(self.coordinates(sample))
        x = self.stem(torch.cat(parts, dim=1))
        skips: list[Tensor] = [x] if self.published else []
        for stage in self.down:
            block = isinstance(stage, ResBlock | PublishedBlock)
            x = stage(x, embedding) if block else stage(x)
            if block or self.published:
                skips.append(x)
        x = self.middle2(self.attention(self.middle1(x, embedding)), embedding)
        for stage in self.up:
            block = isinstance(stage, ResBlock | PublishedBlock)
            x = stage(torch.cat([x, skips.pop()], dim=1), embedding) if block else stage(x)
        return self.head(F.silu(self.norm(x)))
