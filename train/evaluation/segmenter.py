"""A small 2.5D U-Net that finds tumours: what a set of training volumes is worth, measured on other cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...engine.errors import InvalidInputError
from ..precision import reduced_products

CLASSES = 4  # background, NCR, ED, ET
NEIGHBOURS = 1  # slices seen on either side of the one that is segmented
REGIONS = {"wt": (1, 2, 3), "tc": (1, 3), "et": (3,)}  # the regions of BraTS and their labels

Volume = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # image (modality, x, y, z), 0 background; label (x, y, z)
FindLabels = Callable[[NDArray[np.float32]], NDArray[np.uint8]]  # slabs (n, channels, x, y) -> labels (n, x, y)


@dataclass(frozen=True)
class SegmenterSettings:
    """One training of the segmenter; the defaults take some minutes on one core."""

    steps: int = 600
    batch_size: int = 8  # slices
    learning_rate: float = 2e-3  # peak of a one-cycle schedule, AdamW
    widths: tuple[int, ...] = (16, 32, 64, 128)  # channels at 1/1, 1/2, ... of the slice
    tumour_share: float = 0.67  # of the slices of a batch, drawn from those that hold tumour
    seed: int = 0


def train_segmenter(
    volumes: Sequence[Volume],
    settings: SegmenterSettings,
    advance: Callable[[int, float], None] = lambda step, loss: None,
    *,
    chances: Sequence[float] | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Train on `volumes`, which all have the same shape; `advance` gets the finished steps and the loss.

    Volumes may be memory-mapped: no more of them is held than a batch takes. `chances` are those of each volume to be
    drawn, equal by default; they sum to 1.

    Raises:
        InvalidInputError: no volume, or none with tumour.
    """
    if not any(label.any() for _, label in volumes):
        raise InvalidInputError("a segmenter needs at least one volume with tumour to train on")
    torch.manual_seed(settings.seed)
    modalities = volumes[0][0].shape[0]
    model = UNet((2 * NEIGHBOURS + 1) * modalities, CLASSES, settings.widths)
    model = model.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimiser = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, settings.steps, pct_start=0.1)
    model.train()
    for step, (images, labels) in enumerate(_batches(volumes, settings, chances), start=1):
        with reduced_products(device):
            logits = model(images.to(device, memory_format=torch.channels_last))
        loss = _loss(logits.float(), labels.to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        advance(step, float(loss.detach()))
    return model.eval()


@torch.inference_mode()
def segment(model: nn.Module, image: NDArray[np.uint8], batch_size: int = 8) -> NDArray[np.uint8]:
    """Labels (x, y, z) of one image (modality, x, y, z); 0 outside the brain."""
    device = next(model.parameters()).device

    def find(slabs: NDArray[np.float32]) -> NDArray[np.uint8]:
        part = torch.from_numpy(slabs).to(device, memory_format=torch.channels_last)
        with reduced_products(device):
            return model(part).float().argmax(1).cpu().numpy().astype(np.uint8)

    return segmented(find, image, batch_size)


def segmented(find: FindLabels, image: NDArray[np.uint8], batch_size: int = 8) -> NDArray[np.uint8]:
    """Labels (x, y, z) that `find` gives the slices of one image (modality, x, y, z); 0 outside the brain."""
    held = np.flatnonzero(image.any(axis=(0, 1, 2)))
    label = np.zeros(image.shape[1:], np.uint8)
    slabs = _slabs(torch.from_numpy(normalised(image)), held).numpy()
    for first in range(0, len(held), batch_size):
        part = slice(first, first + batch_size)
        label[..., held[part]] = find(slabs[part]).transpose(1, 2, 0)
    return np.where(image.any(axis=0), label, np.uint8(0))


def dice(predicted: NDArray[np.uint8], expected: NDArray[np.uint8]) -> dict[str, float]:
    """Dice of each of `REGIONS`; 1 where both are empty."""
    scores = {}
    for region, labels in REGIONS.items():
        a, b = np.isin(predicted, labels), np.isin(expected, labels)
        size = int(a.sum()) + int(b.sum())
        scores[region] = 2 * int((a & b).sum()) / size if size else 1.0
    return scores


def normalised(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(modality, x, y, z): every modality with mean 0 and deviation 1 inside the brain, 0 outside."""
    return _scaled(image, *_statistics(image))


def _statistics(image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation (modality,) inside the brain."""
    inside = image[:, image.any(axis=0)].astype(np.float32)
    return inside.mean(1), inside.std(1) + 1e-3


def _scaled(image: NDArray[np.uint8], mean: NDArray[np.float32], deviation: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled = (image.astype(np.float32) - mean[:, None, None, None]) / deviation[:, None, None, None]
    return np.where(image.any(axis=0), scaled, np.float32(0))


class UNet(nn.Module):
    """Ronneberger et al. 2015, padded, with batch norm; (B, channels, x, y) -> (B, classes, x, y)."""

    def __init__(self, channels: int, classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(a, b) for a, b in zip((channels, *widths), widths, strict=False))
        pairs = list(pairwise(widths))[::-1]
        self.up = nn.ModuleList(_double(a + b, a) for a, b in pairs)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Raises RuntimeError of torch where x or y is not a multiple of 2^(levels - 1)."""
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            x = block(torch.cat((functional.interpolate(x, scale_factor=2.0, mode="nearest"), skip), 1))
        return self.head(x)


def _double(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True),
        nn.Conv2d(b, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True),
    )  # fmt: skip


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice of the regions over the batch."""
    shares = logits.softmax(1)
    total = functional.cross_entropy(logits, labels)
    for members in REGIONS.values():
        share = shares[:, list(members)].sum(1)
        truth = torch.isin(labels, torch.tensor(members, device=labels.device)).float()
        total = total + (1 - (2 * (share * truth).sum() + 1) / (share.sum() + truth.sum() + 1)) / len(REGIONS)
    return total


def _slabs(image: Tensor, slices: NDArray[np.integer]) -> Tensor:
    """(slices, neighbours x modality, x, y); slices beyond the ends are repeated."""
    offsets = np.arange(-NEIGHBOURS, NEIGHBOURS + 1)
    index = np.clip(np.asarray(slices)[:, None] + offsets, 0, image.shape[3] - 1)
    picked = image.permute(3, 0, 1, 2).contiguous()[torch.from_numpy(index.ravel())]
    return picked.reshape(len(slices), -1, *image.shape[1:3])


def _batches(
    volumes: Sequence[Volume], settings: SegmenterSettings, chances: Sequence[float] | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented batches: cases drawn by their chances, then a slice of tumour or any slice of the brain."""
    rng = np.random.default_rng(settings.seed)
    statistics = [_statistics(image) for image, _ in volumes]
    brain = [np.flatnonzero(image.any(axis=(0, 1, 2))) for image, _ in volumes]
    tumour = [np.flatnonzero(label.any(axis=(0, 1))) for _, label in volumes]
    for _ in range(settings.steps):
        images, labels = [], []
        for case in rng.choice(len(volumes), settings.batch_size, p=chances):
            wanted = tumour[case] if tumour[case].size and rng.random() < settings.tumour_share else brain[case]
            at = int(rng.choice(wanted))
            image, label = volumes[case]
            near = np.clip(np.arange(at - NEIGHBOURS, at + NEIGHBOURS + 1), 0, image.shape[3] - 1)
            slab = torch.from_numpy(_scaled(image[..., near], *statistics[case]))
            images.append(_slabs(slab, np.array([NEIGHBOURS])))
            labels.append(torch.from_numpy(label[..., at].astype(np.int64))[None])
        yield augmented(torch.cat(images), torch.cat(labels), rng)


def augmented(images: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random mirror, rotation, scale, gain, shift, gamma, blur and noise, each slab on its own; background stays 0."""
    count, channels = images.shape[:2]
    modalities = channels // (2 * NEIGHBOURS + 1)
    angle, scale = rng.normal(0, 0.2, count), np.exp(rng.normal(0, 0.1, (count, 2)))
    mirror = rng.choice((-1.0, 1.0), count)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.zeros((count, 2, 3), np.float32)
    matrix[:, 0, 0], matrix[:, 0, 1] = cos * scale[:, 0], -sin * scale[:, 1]
    matrix[:, 1, 0], matrix[:, 1, 1] = sin * scale[:, 0] * mirror, cos * scale[:, 1] * mirror
    matrix[:, :, 2] = rng.normal(0, 0.04, (count, 2))
    grid = functional.affine_grid(torch.from_numpy(matrix), [count, 1, *images.shape[2:]], align_corners=False)
    moved = functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
    found = functional.grid_sample(labels[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0].long()
    inside = moved.abs().sum(1, keepdim=True) > 0

    def each(values: NDArray[np.float64]) -> Tensor:  # (count, modalities) for all slices of a slab
        return torch.from_numpy(np.tile(values, (1, 2 * NEIGHBOURS + 1)).astype(np.float32))[..., None, None]

    gamma = each(np.exp(rng.normal(0, 0.12, (count, modalities))))
    bent = (moved.clamp(-3, 6) / 4 + 0.75).clamp_min(0.0) ** gamma * 4 - 3
    shaded = bent * each(np.exp(rng.normal(0, 0.12, (count, modalities)))) + each(
        rng.normal(0, 0.12, (count, modalities))
    )
    blurred = functional.avg_pool2d(shaded, 3, 1, 1, count_include_pad=False)
    soft = each(rng.uniform(0, 1, (count, modalities)) * (rng.random((count, modalities)) < 0.3))
    mixed = shaded + soft * (blurred - shaded)
    noise = torch.from_numpy(rng.standard_normal(mixed.shape, dtype=np.float32))
    return torch.where(inside, mixed + noise * each(rng.uniform(0, 0.12, (count, modalities))), 0.0), found
