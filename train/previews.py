"""Pictures of what the networks make while they train, drawn as the contact sheets of a run are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..engine.bundle.manifest import NoiseSchedule
from ..engine.output.preview import Rgb, Scan, cropped, panels
from ..engine.sampling.samplers import Latent, sample_ddim
from ..engine.sampling.schedule import sampling_points
from ..kernels.noise import standard_normal
from .config import SystemConfig
from .data.classes import one_hot
from .data.cohort import Cohort
from .latents import load_volume
from .logbook import Picture
from .networks.aggregator import Aggregator, latent_shape
from .networks.refiner import Refiner
from .networks.slice_vae import Decoder, SliceVae

CASE = 0  # of the training cohort
STEPS = 20  # of the sample
SLICES_AT_ONCE = 8
DARK = 0.02  # below it, and without label, a voxel is shown as background
_GAP = 6


class Previews:
    """Draws one training case, and under it what the networks make of it."""

    def __init__(self, config: SystemConfig, cohort: Cohort, device: torch.device) -> None:
        self.config, self.device = config, device
        image, label = load_volume(cohort, CASE, False, config)
        self.image, self.label = image, label  # (D, M, X, Y), (D, X, Y)

    def reconstruction(self, vae: SliceVae) -> Picture:
        """The case encoded and decoded."""
        latents = []
        with self._inference():
            for at in self._spans():
                position = torch.arange(at.start, at.stop, device=self.device)
                hot = one_hot(self.label[at].to(self.device), self.config.classes)
                latents.append(vae.encoder(self.image[at].to(self.device), hot, position)[0].float())
        return self._picture(*self._decoded(vae.decoder, torch.cat(latents)))

    def sample(
        self,
        denoiser: nn.Module,
        aggregator: Aggregator,
        decoder: Decoder,
        schedule: NoiseSchedule,
        condition: NDArray[np.float32],
        seed: int,
    ) -> Picture:
        """A sample under the case's own condition (K,), normalised: 20 DDIM steps from noise of `seed`."""
        c, h, w = self.config.slice_shape
        shape = (1, *latent_shape(self.config.aggregator, c, self.config.grid.shape[2], h, w))
        wanted, on = torch.from_numpy(condition[None]).to(self.device), torch.ones(1, device=self.device)

        def denoise(state: Latent, timestep: int) -> tuple[Latent, None]:
            with self._inference():
                t = torch.full((1,), float(timestep), device=self.device)
                predicted = denoiser(torch.from_numpy(state).to(self.device), t, wanted, on)
            return predicted.float().cpu().numpy(), None

        noise = standard_normal(seed, 0, 0, int(np.prod(shape))).reshape(shape)
        points = sampling_points(schedule, min(STEPS, len(schedule.alphas_cumprod)))
        latent = sample_ddim(denoise, noise, points, schedule.prediction_type, noise=lambda _draw: noise)
        with torch.no_grad():
            slices = aggregator.decode(torch.from_numpy(latent).to(self.device))[0]
        return self._picture(*self._decoded(decoder, slices))

    def refined(self, refiner: Refiner, decoder: Decoder, latents: NDArray[np.float16]) -> Picture:
        """The case decoded from its slice latents (D, c, h, w), and the same refined."""
        coarse, label = self._decoded(decoder, torch.from_numpy(latents.astype(np.float32)).to(self.device))
        hot = one_hot(label, self.config.classes)
        with self._inference():
            refined = refiner(coarse[None].to(self.device), hot[None].to(self.device))[0]
        return self._picture(coarse, label, refined.float().cpu(), label)

    def _decoded(self, decoder: Decoder, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Slice latents (D, c, h, w) -> image (D, M, X, Y) in [-1, 1] and label (D, X, Y), on the CPU."""
        images, labels = [], []
        with self._inference():
            for at in self._spans():
                image, logits = decoder(latents[at], torch.arange(at.start, at.stop, device=self.device))
                images.append(image.float().clamp(-1.0, 1.0).cpu())
                labels.append(logits.argmax(dim=1).cpu())
        return torch.cat(images), torch.cat(labels)

    def _picture(self, *made: Tensor) -> Picture:
        """The case, then each made pair of image and label, as rows of three views."""
        pairs = [(self.image, self.label), *zip(made[::2], made[1::2], strict=True)]
        scans = [self._scan(image, label) for image, label in pairs]
        return tiled([panels(scan) for scan in cropped(scans)])

    def _scan(self, image: Tensor, label: Tensor) -> Scan:
        grey, classes = (image.numpy() + 1) / 2, label.numpy().astype(np.uint8)
        dark = (grey < DARK).all(axis=1) & (classes == 0)
        shown = np.where(dark[:, None], 0.0, grey).astype(np.float32)
        return Scan(shown.transpose(1, 2, 3, 0), classes.transpose(1, 2, 0), self.config.grid.spacing_mm)

    def _spans(self) -> Iterator[slice]:
        depth = self.config.grid.shape[2]
        return (slice(start, min(start + SLICES_AT_ONCE, depth)) for start in range(0, depth, SLICES_AT_ONCE))

    @contextmanager
    def _inference(self) -> Iterator[None]:
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
            yield


def tiled(rows: Sequence[Sequence[Rgb]]) -> Picture:
    """Rows of panels (height, width, 3) side by side and below each other, with a gap."""
    lines = []
    for row in rows:
        height = max(panel.shape[0] for panel in row)
        lines.append(np.concatenate([_padded(p, height + _GAP, p.shape[1] + _GAP) for p in row], axis=1))
    width = max(line.shape[1] for line in lines)
    return np.rint(np.concatenate([_padded(line, line.shape[0], width) for line in lines])).astype(np.uint8)


def _padded(panel: Rgb, height: int, width: int) -> Rgb:
    return np.pad(panel, ((0, height - panel.shape[0]), (0, width - panel.shape[1]), (0, 0)))
