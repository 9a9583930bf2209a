"""Pictures of what the networks make while they train, drawn as the contact sheets of a run are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..engine.bundle.manifest import INT16_SCALE, NoiseSchedule
from ..engine.output.preview import Rgb, Scan, cropped, panels
from ..engine.sampling.decoding import DecodedSlices, assemble_volume, decode_slices, encode_slices
from ..engine.sampling.host import HostLoop
from ..engine.sampling.slices import SliceModel
from ..engine.sampling.types import SampleRequest, SamplingOptions, Volume
from ..kernels.assemble import one_hot_labels
from .config import SystemConfig
from .data.cohort import Cohort
from .latents import load_volume
from .logbook import Picture
from .networks.aggregator import Aggregator, latent_shape
from .networks.refiner import Refiner
from .networks.slice_vae import Decoder, SliceVae
from .precision import reduced_type
from .torch_components import TorchComponents

CASE = 0  # of the training cohort
STEPS = 20  # of the sample
DARK = 0.02  # below it, and without label, a voxel is shown as background
_GAP = 6


class Previews:
    """Draws one training case, and under it what the networks make of it, by the engine's own code."""

    def __init__(self, config: SystemConfig, cohort: Cohort, device: torch.device) -> None:
        self.config, self.device = config, device
        image, label = load_volume(cohort, CASE, False, config)
        self.image, self.label = image.numpy(), label.numpy()  # (D, M, X, Y), (D, X, Y)

    def reconstruction(self, vae: SliceVae) -> Picture:
        """The case encoded and decoded."""
        networks = self._networks(
            encoder=lambda image, label, position: vae.encoder(image, label, position)[0], decoder=vae.decoder
        )
        hot = one_hot_labels(self.label, self.config.classes)
        latents = encode_slices(networks.run, self.image, hot)
        return self._picture(_assembled(decode_slices(networks.run, latents, refined=False)))

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
        depth = self.config.grid.shape[2]
        shape = latent_shape(self.config.aggregator, c, depth, h, w)
        model = SliceModel(schedule, shape, len(condition), self.config.classes, DARK, False, depth)
        networks = self._networks(denoiser=denoiser, aggregator=aggregator.decode, decoder=decoder)
        options = SamplingOptions(min(STEPS, len(schedule.alphas_cumprod)), "ddim", 0.0, 1.0, seed, 1)
        (volume,) = HostLoop(model, networks.run, options).start([SampleRequest(0, 0, condition)])()
        return self._picture(volume)

    def refined(self, refiner: Refiner, decoder: Decoder, latents: NDArray[np.float16]) -> Picture:
        """The case decoded from its slice latents (D, c, h, w), and the same refined."""
        networks = self._networks(decoder=decoder, refiner=refiner)
        decoded = decode_slices(networks.run, latents.astype(np.float32), refined=True)
        coarse = DecodedSlices(decoded.coarse, decoded.coarse, decoded.label_logits)
        return self._picture(_assembled(coarse), _assembled(decoded))

    def _networks(self, **modules: Any) -> TorchComponents:
        return TorchComponents(modules, self.device, reduced_type(self.device))

    def _picture(self, *made: Volume) -> Picture:
        """The case, then each volume, as rows of three views."""
        spacing = self.config.grid.spacing_mm
        case = ((self.image + 1) / 2).transpose(1, 2, 3, 0), self.label.transpose(1, 2, 0).astype(np.uint8)
        volumes = [(volume.image.astype(np.float32) / np.float32(INT16_SCALE), volume.label) for volume in made]
        scans = [Scan(image, label, spacing) for image, label in (case, *volumes)]
        return tiled([panels(scan) for scan in cropped(scans)])


def _assembled(decoded: DecodedSlices) -> Volume:
    nobody = SampleRequest(0, 0, np.zeros(0, np.float32))
    return assemble_volume(nobody, decoded, True, DARK)


def tiled(rows: Sequence[Sequence[Rgb]]) -> Picture:
    """Rows of panels (height, width, 3) side by side and below each other, with a gap."""
    lines = []
    for row in rows:
        height = max(panel.shape[0] for panel in row)
        lines.append(np.concatenate([_padded(p, height + _GAP, p.shape[1] + _GAP) for p in row], axis=1))
    width = max(line.shape[1] for line in lines)
    return np.rint(np.concatenate([_padded(line, line.shape[0], width) for line in lines])).astype(np.uint8)


def _padded(panel: Rgb, height: int, width: int) -> Rgb:
    return np.pad(panel, np.array([(0, height - panel.shape[0]), (0, width - panel.shape[1]), (0, 0)]))
