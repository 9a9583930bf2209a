"""Pictures of what the networks of the mask-first form make while they train: a case, and under it what they make."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..engine.bundle.manifest import NoiseSchedule, SamplingDefaults
from ..engine.conditions.columns import ConditionColumn, normalise
from ..engine.mask_solver import noise_size, solve_mask
from ..engine.output.preview import Scan, cropped, panels
from ..engine.sampling.plan import sampling_plan
from ..engine.sampling.samplers import SAMPLERS, Latent
from ..engine.sampling.types import SamplingOptions
from ..engine.scans.prepare import LEVELS
from ..kernels.noise import standard_normal
from .config import MaskFirstConfig
from .data.cohort import Cohort
from .data.draws import real_cases
from .logbook import Picture
from .mask_set import MapScale
from .networks.slab_autoencoder import NormalisedAggregator, SlabAutoencoder
from .previews import CASE, tiled
from .slab_volumes import decoded, encoded
from .volume_latents import tissue_planes

MASK_DRAW = 2**31  # first noise of the mask stage, as the engine draws it
SOLVER_DRAW = MASK_DRAW + 32768


class VolumePreviews:
    """Draws the first case of a cohort, and under it what the networks make of it or under its conditions."""

    def __init__(
        self,
        config: MaskFirstConfig,
        cohort: Cohort,
        schedule: NoiseSchedule,
        seed: int,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.config, self.schedule, self.seed, self.autocast = config, schedule, seed, autocast
        self.stored, stacked = cohort.slices(CASE), cohort.label(CASE)
        self.planes = tissue_planes(stacked)
        self.label = np.ascontiguousarray(stacked.transpose(1, 2, 0))
        self.image = self.stored.transpose(1, 2, 3, 0).astype(np.float32) / np.float32(LEVELS)
        self.condition, self.source = cohort.conditions[CASE], float(real_cases(cohort)[CASE])

    def reconstruction(self, autoencoder: SlabAutoencoder) -> Picture:
        """The case encoded and decoded."""
        slices = self.config.autoencoder.slices
        with self.autocast():
            made = decoded(autoencoder, encoded(autoencoder, self.stored, slices), slices)
        return self._picture((made, self.label))

    def mask(self, denoiser: nn.Module, columns: tuple[ConditionColumn, ...], scale: MapScale) -> Picture:
        """A mask under the case's condition, solved, over the case's own image."""
        row = torch.from_numpy(normalise(self.condition[None], columns).astype(np.float32))
        shape = self.config.maps_shape
        maps = self._sampled(denoiser, (row,), shape, self.config.mask_sampling, MASK_DRAW)[0]
        mean, std = (np.array(values, np.float32)[:, None, None, None] for values in (scale.mean, scale.std))
        size = noise_size(self.config.grid.shape)
        noise = standard_normal(self.seed, 0, SOLVER_DRAW, size)
        grid = self.config.grid
        solved = solve_mask(maps * std + mean, self.condition, grid.shape, grid.spacing_mm, noise)
        return self._picture((self.image, solved.label))

    def sample(self, denoiser: nn.Module, autoencoder: SlabAutoencoder, aggregator: NormalisedAggregator) -> Picture:
        """An image made on the case's own mask, of the case's source."""
        told = torch.from_numpy(self.planes)[None], torch.tensor([self.source])
        made = self._sampled(denoiser, told, self.config.latent_shape, self.config.sampling, 0)
        latent = torch.from_numpy(made[0]).to(aggregator.mean.device) * aggregator.scale + aggregator.mean
        with self.autocast():
            image = decoded(autoencoder, latent, self.config.autoencoder.slices, self.label)
        return self._picture((image, self.label))

    def _sampled(
        self, denoiser: nn.Module, told: tuple[Tensor, ...], shape: tuple[int, ...], how: SamplingDefaults, first: int
    ) -> Latent:
        """(1, *shape) from noise of draws `first` and on."""
        device = next(denoiser.parameters()).device
        plan = sampling_plan(self.schedule, SamplingOptions.default(how, self.seed))
        shown = [tensor.to(device) for tensor in told]

        def noise(draw: int) -> Latent:
            return standard_normal(self.seed, 0, first + draw, prod(shape)).reshape(1, *shape)

        def predict(state: Latent, timestep: float) -> tuple[Latent, Latent | None]:
            noisy, time = torch.from_numpy(state).to(device), torch.full((1,), timestep, device=device)

            def predicted(kept: float) -> Latent:
                with torch.inference_mode(), self.autocast():
                    return denoiser(noisy, time, *shown, torch.full_like(time, kept)).float().cpu().numpy()

            return predicted(1.0), None if plan.guidance is None else predicted(0.0)

        return SAMPLERS[plan.sampler](predict, noise(0), plan, noise)

    def _picture(self, made: tuple[NDArray[np.float32], NDArray[np.uint8]]) -> Picture:
        """The case, then what was made, image (M, x, y, z) and label (x, y, z), as rows of three views."""
        spacing = self.config.grid.spacing_mm
        scans = [Scan(image, label, spacing) for image, label in ((self.image, self.label), made)]
        return tiled([panels(scan) for scan in cropped(scans)])
