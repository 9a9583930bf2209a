"""Refiner: restores the texture that the slice autoencoder blurs; 2D convolutions that look at neighbouring slices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import RefinerConfig
from .blocks import conv, zero_init


def shift_slices(x: Tensor, share: int) -> Tensor:
    """Move C/share channels one slice up and C/share one slice down along D (Lin et al. 2019, temporal shift).

    (N, D, C, H, W) -> the same shape; the ends are filled with zeros. Context along depth at no arithmetic cost.
    """
    fold = x.shape[2] // share
    above, below, rest = x[:, 1:, :fold], x[:, :-1, fold : 2 * fold], x[:, :, 2 * fold :]
    empty = torch.zeros_like(x[:, :1, :fold])
    return torch.cat([torch.cat([above, empty], dim=1), torch.cat([empty, below], dim=1), rest], dim=2)


class ShiftBlock(nn.Module):
    """Residual block of two 3x3 convolutions whose input sees the neighbouring slices."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = conv(2, width, width)
        self.conv2 = zero_init(conv(2, width, width))

    def forward(self, x: Tensor) -> Tensor:  # (N, D, C, H, W)
        n, d, c, h, w = x.shape
        y = self.conv1(shift_slices(x, 8).reshape(n * d, c, h, w))
        return x + self.conv2(F.silu(y)).reshape(n, d, c, h, w)


class Refiner(nn.Module):
    """Coarse image (N, D, M, X, Y) in [-1, 1], one-hot label (N, D, L, X, Y) -> refined image like the coarse one.

    Works at half resolution in plane through pixel (un)shuffling and adds a residual; background stays as it is.
    """

    def __init__(self, config: RefinerConfig, modalities: int, classes: int) -> None:
        super().__init__()
        self.stem = conv(2, 4 * (modalities + classes), config.width)
        self.blocks = nn.ModuleList([ShiftBlock(config.width) for _ in range(config.blocks)])
        self.shuffle = conv(2, config.width, 4 * config.fine_width)
        self.head = zero_init(conv(2, config.fine_width + modalities, modalities))

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        n, d, m, height, width = image.shape
        flat = image.reshape(n * d, m, height, width)
        x = torch.cat([flat, label.reshape(n * d, -1, height, width)], dim=1)
        x = self.stem(F.pixel_unshuffle(x, 2))
        x = x.reshape(n, d, *x.shape[1:])
        for block in self.blocks:
            x = block(x)
        fine = F.silu(F.pixel_shuffle(self.shuffle(x.flatten(0, 1)), 2))
        residual = self.head(torch.cat([fine, flat], dim=1))
        return (flat + residual).reshape(image.shape)


class DraftRefiner(Refiner):
    """The refiner of the mask-first form: what it is told beside the image is a draft (N, D, M, X, Y) in [-1, 1]."""

    def __init__(self, config: RefinerConfig, modalities: int) -> None:
        super().__init__(config, modalities, modalities)

    def forward(self, image: Tensor, draft: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(image, draft)
