"""MONAI's 3D U-Net on patches, with MONAI's augmentation, loss and sliding window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from monai.losses.dice import DiceCELoss
from monai.networks.nets.unet import UNet
from monai.transforms.compose import Compose
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)
from monai.transforms.spatial.dictionary import RandAffined, RandFlipd
from numpy.typing import NDArray
from torch import Tensor, nn

from ..evaluation.segmenter import CLASSES, Volume, normalised
from ..precision import reduced_products
from .work import Predict, Work


@dataclass(frozen=True)
class UNetSettings:
    """One training of the network."""

    patch: tuple[int, int, int] = (96, 96, 48)  # voxels, at most the grid's
    batch_size: int = 2
    learning_rate: float = 1e-3  # peak of a one-cycle schedule, AdamW
    widths: tuple[int, ...] = (24, 48, 96, 192)  # channels at 1/1, 1/2, ...
    tumour_share: float = 0.67  # of the patches, centred on a voxel of tumour


SETTINGS = UNetSettings()


def train_unet(work: Work) -> Predict:
    """Residual U-Net with instance norm, Dice and cross-entropy, for `work.steps` steps."""
    torch.manual_seed(work.seed)
    model = UNet(
        3, len(work.modalities), CLASSES, SETTINGS.widths, (2,) * (len(SETTINGS.widths) - 1), num_res_units=2
    ).to(work.device)
    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    optimiser = torch.optim.AdamW(model.parameters(), SETTINGS.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, SETTINGS.learning_rate, work.steps, pct_start=0.1)
    for step, (images, labels) in enumerate(_batches(work), start=1):
        with reduced_products(work.device):
            logits = model(images.to(work.device))
        loss = loss_of(logits.float(), labels.to(work.device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        work.advance(step, float(loss.detach()))
    return partial(map, partial(_segment, model.eval(), _patch(work)))


@torch.inference_mode()
def _segment(model: nn.Module, patch: tuple[int, int, int], image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    device = next(model.parameters()).device
    values = torch.from_numpy(normalised(image))[None].to(device)
    with reduced_products(device):
        logits = cast(Tensor, sliding_window_inference(values, patch, 2, model, overlap=0.25, mode="gaussian"))
    label = logits[0].float().argmax(0).cpu().numpy().astype(np.uint8)
    return np.where(image.any(axis=0), label, np.uint8(0))


def _batches(work: Work) -> Iterator[tuple[Tensor, Tensor]]:
    rng, varied = np.random.default_rng(work.seed), _Augmentation(work.seed)
    for _ in range(work.steps):
        drawn = rng.choice(len(work.volumes), SETTINGS.batch_size, p=work.chances)
        made = [varied(_cut(work.volumes[case], _patch(work), rng)) for case in drawn]
        yield torch.stack([image for image, _ in made]), torch.stack([label for _, label in made])


def _patch(work: Work) -> tuple[int, int, int]:
    return cast("tuple[int, int, int]", tuple(map(min, SETTINGS.patch, work.grid.shape)))


def _cut(volume: Volume, patch: tuple[int, int, int], rng: np.random.Generator) -> dict[str, Any]:
    """A patch about a voxel of tumour or of brain, as near to its middle as the volume allows."""
    image, label = volume
    tumour = np.flatnonzero(label)
    held = tumour if tumour.size and rng.random() < SETTINGS.tumour_share else np.flatnonzero(image.any(axis=0))
    centre = np.unravel_index(rng.choice(held), label.shape)
    starts = [int(np.clip(c - p // 2, 0, n - p)) for c, p, n in zip(centre, patch, label.shape, strict=True)]
    x, y, z = (slice(start, start + size) for start, size in zip(starts, patch, strict=True))
    return {"image": normalised(image)[:, x, y, z], "label": label[None, x, y, z].astype(np.float32)}


class _Augmentation:
    """Moves image and label together, then varies the intensities of the brain; background stays 0."""

    def __init__(self, seed: int) -> None:
        both, about = ("image", "label"), float(np.deg2rad(15))
        moved = RandAffined(
            both, prob=0.9, rotate_range=(0.1, 0.1, about), scale_range=0.15, shear_range=0.05,
            mode=("bilinear", "nearest"), padding_mode="zeros",
        )  # fmt: skip
        self.moved = Compose([moved, RandFlipd(both, prob=0.5, spatial_axis=0)]).set_random_state(seed)
        self.shaded = Compose(
            [
                RandScaleIntensityd("image", 0.2, prob=0.8, channel_wise=True),
                RandShiftIntensityd("image", 0.2, prob=0.8, channel_wise=True),
                RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
                RandGaussianNoised("image", prob=0.3, std=0.1),
            ]
        ).set_random_state(seed)

    def __call__(self, patch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        moved = cast("dict[str, Any]", self.moved(patch))
        inside = torch.as_tensor(moved["image"]).any(dim=0)
        shaded = cast("dict[str, Any]", self.shaded(moved))
        return torch.as_tensor(shaded["image"]) * inside, torch.as_tensor(shaded["label"])
