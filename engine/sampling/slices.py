"""The form of slices: image and mask are decoded from one latent, slice by slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from ...kernels.assemble import one_hot_labels
from ..bundle.manifest import BundleManifest, NoiseSchedule
from .batch import Batch
from .decoding import DECODER_SLICES, assemble_volume, decode_slices, encode_volume
from .samplers import Latent
from .types import LATENTS_AT_ONCE, OnStep, RunComponent, Told, Volume


@dataclass(frozen=True)
class SliceModel:
    """A `VolumeModel` of slices."""

    schedule: NoiseSchedule
    latent_shape: tuple[int, ...]  # of Z, without the batch axis
    condition_columns: int
    classes: int  # of the label, background included
    background_threshold: float
    refined: bool  # it has a refiner
    depth: int  # slices of a volume
    at_once: int = DECODER_SLICES  # slices a decoder call

    @classmethod
    def of(cls, manifest: BundleManifest) -> SliceModel:
        """That of a bundle."""
        return cls(
            manifest.schedule,
            manifest.latent.shape,
            len(manifest.condition_columns),
            len(manifest.labels),
            manifest.background_threshold,
            "refiner" in manifest.components,
            manifest.grid.shape[2],
        )

    @property
    def working_bytes(self) -> int:
        """See `VolumeModel`."""
        return LATENTS_AT_ONCE * np.dtype(np.float32).itemsize * prod(self.latent_shape)

    def rows(self, batch_size: int) -> Mapping[str, set[int]]:
        """See `VolumeModel`."""
        found = {
            "denoiser": {batch_size},
            "aggregator": {batch_size},
            "decoder": {min(self.depth, self.at_once), self.depth % self.at_once or self.at_once},
        }
        return {**found, "refiner": {1}} if self.refined else found

    def tell(self, run: RunComponent, batch: Batch, on_step: OnStep | None) -> Told:
        """The conditions."""
        return Told({"condition": batch.filled((self.condition_columns,), lambda request: request.condition)})

    def told_of(self, batch: Batch, label: NDArray[np.uint8]) -> Told:
        """See `VolumeModel`: nothing, the latent holds the mask."""
        return Told({})

    def decode(self, run: RunComponent, batch: Batch, told: Told, latents: Latent) -> list[Volume]:
        """See `VolumeModel`."""
        stacks = run("aggregator", {"latent": latents})["slices"]
        volumes = []
        for request in batch.requests:
            slot = batch.slot(request)
            decoded = decode_slices(run, stacks[slot], refined=self.refined, at_once=self.at_once)
            finite = bool(np.isfinite(latents[slot]).all())
            volumes.append(assemble_volume(request, decoded, finite, self.background_threshold))
        return volumes

    def encode(self, run: RunComponent, image: NDArray[np.float32], label: NDArray[np.uint8]) -> Latent:
        """See `VolumeModel`."""
        return encode_volume(run, image, one_hot_labels(label, self.classes))

    def healthy(self, image: NDArray[np.int16], label: NDArray[np.uint8]) -> None:
        """See `VolumeModel`: the latent of a case holds its tissues."""
