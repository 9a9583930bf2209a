"""Stage `refiner` of the slice form: texture that the autoencoder blurs, with a discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses.adversarial_loss import PatchAdversarialLoss
from monai.losses.ssim_loss import SSIMLoss
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from torch import Tensor, nn
from torch.func import functional_call

from ..config import SystemConfig
from ..data.classes import one_hot
from ..data.cohort import Cohort
from ..latents import LatentStore, draw_latents, load_volume
from ..networks.refiner import Refiner
from ..networks.slice_vae import Decoder
from ..precision import reduced_products
from ..prefetch import DrawnAhead, to_device
from .slice_autoencoder import gradient_loss

REFINER_SLICES = 12  # neighbouring slices a training crop
LATENT_JITTER = 0.3  # largest deviation, in channel deviations, added to latents: generated slices cohere less
ADVERSARIAL_WEIGHT = 0.05
SSIM_WEIGHT = 0.05
GRADIENT_WEIGHT = 0.25
DETAIL_WEIGHT = 0.5
IMAGE_TERMS = ("l1", "gradient", "ssim", "detail")  # of the loss: those that no discriminator has a part in
DETAIL_SIGMA, DETAIL_WINDOW = 1.0, 8  # pixels: what is finer than the one, averaged over the other


class RefinerStage(nn.Module):
    """Refiner and its discriminator; one loss whose two parts never reach each other's parameters."""

    def __init__(self, refiner: Refiner, modalities: int) -> None:
        super().__init__()
        self.refiner = refiner
        self.discriminator = PatchDiscriminator(
            spatial_dims=2, channels=32, in_channels=2 * modalities, out_channels=1, num_layers_d=2, norm="INSTANCE"
        )
        self.adversarial: nn.Module = PatchAdversarialLoss(criterion="least_squares")
        self.ssim = SSIMLoss(spatial_dims=2, data_range=2.0, win_size=7)

    def loss(self, coarse: Tensor, label: Tensor, image: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Coarse (N, D, M, X, Y), one-hot label (N, D, L, X, Y), real image like coarse -> total loss and its terms.

        Several processes are given the inputs in 16 bits and autocast; what is compared is compared in 32.
        """
        refined = self.refiner(coarse, label).float().flatten(0, 1)
        real, blurred = image.float().flatten(0, 1), coarse.float().flatten(0, 1)
        frozen = {k: v.detach() for k, v in self.discriminator.named_parameters()}
        seen = functional_call(self.discriminator, frozen, (torch.cat([refined, blurred], dim=1),))
        fake_score = self.discriminator(torch.cat([refined.detach(), blurred], dim=1))
        real_score = self.discriminator(torch.cat([real, blurred], dim=1))
        with _without_autocast(refined.device):
            return self._terms(refined, real, seen, fake_score, real_score)

    def _terms(
        self, refined: Tensor, real: Tensor, seen: list[Tensor], fake_score: list[Tensor], real_score: list[Tensor]
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        terms = {
            "l1": F.l1_loss(refined, real),
            "gradient": GRADIENT_WEIGHT * gradient_loss(refined, real),
            "ssim": SSIM_WEIGHT * self.ssim(refined, real),
            "detail": DETAIL_WEIGHT * F.l1_loss(detail_strength(refined), detail_strength(real)),
            "adversarial": ADVERSARIAL_WEIGHT
            * self.adversarial(last(seen), target_is_real=True, for_discriminator=False),
            "discriminator": 0.5
            * (
                self.adversarial(last(fake_score), target_is_real=False, for_discriminator=True)
                + self.adversarial(last(real_score), target_is_real=True, for_discriminator=True)
            ),
        }
        sharpness = refined.detach().diff(dim=3).abs().mean() / real.diff(dim=3).abs().mean()
        return torch.stack(list(terms.values())).sum(), {**terms, "sharpness": sharpness}


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """32 bits within; on devices that know no autocast (meta, when memory is counted) there is nothing to end."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def detail_strength(image: Tensor) -> Tensor:
    """Root mean square of image - Gaussian(DETAIL_SIGMA) in windows that overlap by half; (S, M, X, Y) -> (S, M, x, y).

    L1 and SSIM answer lost detail with blur; this asks for as much of it as the real image has at that place.
    """
    reach = 2
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=image.device) / DETAIL_SIGMA).square())
    kernel = (taps[:, None] * taps).expand(image.shape[1], 1, -1, -1) / taps.sum().square()
    detail = image - F.conv2d(F.pad(image, (reach,) * 4, mode="replicate"), kernel, groups=image.shape[1])
    window = min(DETAIL_WINDOW, *image.shape[2:])
    return (F.avg_pool2d(detail.square(), window, stride=max(1, window // 2)) + 1e-6).sqrt()


def last(scores: list[Tensor]) -> Tensor:
    """The patch scores (the discriminator also returns its features)."""
    return scores[-1].float()


class RefinerObjective:
    """Crops of neighbouring slices: decoded from slightly jittered latents, refined towards the real slices."""

    def __init__(
        self,
        config: SystemConfig,
        cohort: Cohort,
        store: LatentStore,
        decoder: Decoder,
        scale: Tensor,
        jitter: float = LATENT_JITTER,
    ) -> None:
        self.config, self.cohort, self.store, self.jitter = config, cohort, store, jitter
        self.decoder, self.scale = decoder, scale  # scale (c, 1, 1): deviation a latent channel
        self._drawn = DrawnAhead(self._crops)

    def __call__(
        self, module: nn.Module, step: int, generator: np.random.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        size = self.config.stages["refiner"].batch_size
        device = next(module.parameters()).device
        start, *drawn = self._drawn(size, generator)
        slices, image, label = (to_device(tensor, device) for tensor in drawn)
        span, strength = slices.shape[1], self.jitter * float(generator.random())
        jitter = strength * to_device(self.scale, device) * torch.randn_like(slices)
        position = torch.arange(start, start + span, device=device).repeat(size)
        with torch.no_grad(), reduced_products(device):
            coarse, _ = self.decoder((slices + jitter).flatten(0, 1), position)
        coarse = coarse.float().clamp(-1.0, 1.0).reshape(image.shape)
        hot = one_hot(label.flatten(0, 1), self.config.classes).reshape(
            size, span, self.config.classes, *label.shape[2:]
        )
        return cast(Any, module).loss(coarse, hot, image)

    def _crops(self, size: int, generator: np.random.Generator) -> tuple[int, Tensor, Tensor, Tensor]:
        """The first slice, then latents (N, D, c, h, w), images and labels of the same slices of random cases."""
        depth = self.config.grid.shape[2]
        slices, cases, mirrors = draw_latents(self.store, size, generator)
        span = min(REFINER_SLICES, depth)
        start = int(generator.integers(depth - span + 1))
        crop = slice(start, start + span)
        volumes = [
            load_volume(self.cohort, int(c), bool(m), self.config, crop) for c, m in zip(cases, mirrors, strict=True)
        ]
        image, label = (torch.stack(tensors) for tensors in zip(*volumes, strict=True))
        return start, slices[:, crop], image, label


class UnseenRefining:
    """The loss on cases that are looked at only: latents as they are, and no discriminator, which changes meanwhile."""

    def __init__(self, objective: RefinerObjective) -> None:
        """`objective` is of those cases, without jitter."""
        self.objective = objective

    def __call__(
        self, module: nn.Module, step: int, generator: np.random.Generator
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        _, terms = self.objective(module, step, generator)
        kept = {name: terms[name] for name in IMAGE_TERMS}
        return torch.stack(list(kept.values())).sum(), {**kept, "sharpness": terms["sharpness"]}
