"""Stage `autoencoder` of the slice form: the slice VAE on single slices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses.ssim_loss import SSIMLoss
from torch import Tensor, nn

from ...engine.scans.prepare import to_unit
from ..config import SystemConfig
from ..data.classes import class_labels, one_hot
from ..data.cohort import Cohort
from ..prefetch import DrawnAhead, to_device

CLASS_WEIGHT = 4.0  # of tumour voxels against background in the cross-entropy


class SliceSampler:
    """Draws batches of slices from a cohort: a share with tumour, few empty ones."""

    def __init__(self, cohort: Cohort, config: SystemConfig) -> None:
        self.cohort, self.config = cohort, config
        loss = config.autoencoder_loss
        self.tumour_share = loss.tumour_share
        tumour, filled, empty = [], [], []
        for number in range(len(cohort)):
            holds_tumour = np.asarray(np.any(cohort.label(number), axis=(1, 2)))
            holds_brain = np.asarray(np.any(cohort.slices(number), axis=(1, 2, 3)))
            for position in range(holds_tumour.size):
                target = tumour if holds_tumour[position] else filled if holds_brain[position] else empty
                target.append((number, position))
        keep = np.random.default_rng(0).permutation(len(empty))[: int(loss.empty_share * len(empty))]
        self.tumour = np.array(tumour)
        self.others = np.array(filled + [empty[i] for i in keep])
        self._ahead = DrawnAhead(self._slices)

    def draw(self, size: int, generator: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Image (S, M, X, Y) in [-1, 1], label (S, X, Y) int64, position (S,) int64; half of them mirrored."""
        return self._ahead(size, generator)

    def _slices(self, size: int, generator: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        with_tumour = generator.random(size) < self.tumour_share
        images, labels, positions = [], [], []
        for tumour in with_tumour:
            pool = self.tumour if (tumour and len(self.tumour)) or not len(self.others) else self.others
            number, position = pool[generator.integers(len(pool))]
            image = to_unit(self.cohort.slices(number)[position])
            label = class_labels(self.cohort.label(number)[position], self.config)
            if generator.random() < 0.5:
                image, label = image[:, ::-1].copy(), label[::-1].copy()
            images.append(image)
            labels.append(label)
            positions.append(int(position))
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)), torch.tensor(positions)


def soft_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """One minus the soft Dice of the tissues over the whole batch (background left out)."""
    probability = torch.softmax(logits.float(), dim=1)[:, 1:]
    wanted = target[:, 1:]
    axes = (0, 2, 3)
    overlap = 2.0 * (probability * wanted).sum(axes)
    return 1.0 - ((overlap + 1.0) / ((probability + wanted).sum(axes) + 1.0)).mean()


def gradient_loss(image: Tensor, target: Tensor) -> Tensor:
    """L1 of the finite differences along both axes: keeps edges sharp where no perceptual network is at hand."""
    difference = image - target
    return difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()


class AutoencoderObjective:
    """The loss of one step, called by the stage loop."""

    def __init__(self, config: SystemConfig, sampler: SliceSampler) -> None:
        self.config, self.sampler = config, sampler
        self.ssim = SSIMLoss(spatial_dims=2, data_range=2.0, win_size=7)

    def __call__(
        self, module: nn.Module, step: int, generator: np.random.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        weights, classes = self.config.autoencoder_loss, self.config.classes
        image, label, position = self.sampler.draw(self.config.stages["autoencoder"].batch_size, generator)
        device = next(module.parameters()).device
        image, label, position = (to_device(tensor, device) for tensor in (image, label, position))
        wanted = one_hot(label, classes)
        rebuilt, logits, mean, log_variance = module(image, wanted, position)
        rebuilt, logits, mean, log_variance = rebuilt.float(), logits.float(), mean.float(), log_variance.float()
        class_weight = torch.full((classes,), CLASS_WEIGHT, device=device)
        class_weight[0] = 1.0
        l1 = F.l1_loss(rebuilt, image)
        terms = {
            "l1": weights.l1 * l1,
            "ssim": weights.ssim * self.ssim(rebuilt, image),
            "gradient": weights.gradient * gradient_loss(rebuilt, image),
            "cross_entropy": weights.cross_entropy * F.cross_entropy(logits, label, weight=class_weight),
            "dice": weights.dice * soft_dice_loss(logits, wanted),
            "kl": weights.kl
            * 0.5
            * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=(1, 2, 3)).mean(),
        }
        psnr = -10.0 * torch.log10(F.mse_loss(rebuilt, image) / 4.0)
        return torch.stack(list(terms.values())).sum(), {**terms, "psnr": psnr.detach()}
