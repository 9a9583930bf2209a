"""Pictures of what the networks of the mask-first form make while they train: a case, and under it what they make."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..engine.bundle.manifest import INT16_SCALE, NoiseSchedule
from ..engine.conditions.columns import COLUMNS, ConditionColumn, normalise
from ..engine.output.preview import Scan, cropped, panels
from ..engine.sampling.batch import Batch
from ..engine.sampling.host import HostLoop
from ..engine.sampling.types import SampleRequest, SamplingOptions
from .config import MaskFirstConfig
from .data.cohort import Cohort
from .data.draws import real_cases
from .drafts import DraftLevels, case_image, case_label, case_shares
from .logbook import Picture
from .mask_set import MapScale
from .networks.slab_autoencoder import NormalisedAggregator, SlabAutoencoder
from .precision import reduced_type
from .previews import CASE, tiled
from .slab_volumes import reconstructed
from .torch_components import TorchComponents
from .volume_model import sampling_networks, volume_model


class VolumePreviews:
    """Draws the first case of a cohort, and under it what the networks make of it, by the engine's own code."""

    def __init__(
        self, config: MaskFirstConfig, cohort: Cohort, schedule: NoiseSchedule, seed: int, device: torch.device
    ) -> None:
        self.config, self.schedule, self.seed, self.device = config, schedule, seed, device
        self.cohort, self.stored = cohort, cohort.slices(CASE)
        self.image, self.label = case_image(cohort, CASE), case_label(cohort, CASE)
        self.condition, self.source = cohort.conditions[CASE], float(real_cases(cohort)[CASE])

    def reconstruction(self, autoencoder: SlabAutoencoder) -> Picture:
        """The case encoded and decoded."""
        slices = self.config.autoencoder.slices
        return self._picture(
            reconstructed(autoencoder, self.stored, self.label, slices, reduced_type(self.device)), self.label
        )

    def mask(self, denoiser: nn.Module, columns: Sequence[ConditionColumn], scale: MapScale) -> Picture:
        """A mask under the case's characteristics, over the case's own image."""
        row = normalise(self.condition[None], columns)[0].astype(np.float32)
        batch = Batch([SampleRequest(0, 0, row, self.condition)], 1, self.seed)
        run = TorchComponents({"mask_denoiser": denoiser}, self.device, reduced_type(self.device), "mask-first").run
        (made,) = volume_model(self.config, self.schedule, scale=scale).labels(run, batch, None)
        return self._picture(self.image, np.zeros_like(self.label) if made is None else made)

    def sample(
        self,
        denoiser: nn.Module,
        aggregator: NormalisedAggregator,
        autoencoder: SlabAutoencoder,
        levels: DraftLevels,
        refiner: nn.Module | None = None,
    ) -> Picture:
        """An image made around the case's own mask and on its own anatomy, of the case's source."""
        model = volume_model(self.config, self.schedule, self.source, levels, refined=refiner is not None)
        run = sampling_networks(autoencoder, aggregator, denoiser, self.device, refiner)
        options = SamplingOptions.default(self.config.sampling, self.seed)
        nothing = np.zeros(len(COLUMNS), np.float32)
        request = SampleRequest(0, 0, nothing, label=self.label, shares=self._shares)
        (volume,) = HostLoop(model, run, options).start([request])()
        return self._picture(volume.image.astype(np.float32) / np.float32(INT16_SCALE), volume.label)

    @cached_property
    def _shares(self) -> NDArray[np.float32]:
        return case_shares(self.cohort, CASE)

    def _picture(self, image: NDArray[np.float32], label: NDArray[np.uint8]) -> Picture:
        """The case, then what was made, image (M, x, y, z) and label (x, y, z), as rows of three views."""
        spacing = self.config.grid.spacing_mm
        scans = [Scan(self.image, self.label, spacing), Scan(image, label, spacing)]
        return tiled([panels(scan) for scan in cropped(scans)])
