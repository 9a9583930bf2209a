"""A real case under new conditions: encoded, noised up to a strength, sampled back (SDEdit, Meng et al. 2022).

What comes out is derived from a patient's scan: the weaker the noise, the nearer to it. Treat it as patient data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..bundle.load import Bundle
from ..bundle.manifest import INT16_SCALE
from ..errors import InvalidInputError, UsageError
from .decoding import DECODER_SLICES
from .host import VolumeSampler
from .types import LoopKind, SampleRequest, SamplingOptions, Volume


@dataclass(frozen=True)
class SourceCase:
    """A case on the model's grid, and how strongly it is noised."""

    image: NDArray[np.int16]  # (modality, x, y, z) RAS+, 0..1000, background 0, as samples are written
    label: NDArray[np.uint8]  # (x, y, z), 0..classes-1
    strength: float  # 0 returns the reconstruction, 1 starts from noise as `generate` does

    def sha256(self) -> str:
        """Digest of image and label."""
        return hashlib.sha256(
            np.ascontiguousarray(self.image).tobytes() + np.ascontiguousarray(self.label).tobytes()
        ).hexdigest()


def check_source(source: SourceCase, bundle: Bundle) -> None:
    """Hold a case to the bundle.

    Raises:
        UsageError: the strength is outside 0..1.
        InvalidInputError: shapes or labels are not the bundle's.
    """
    if not 0 <= source.strength <= 1:
        raise UsageError(
            f"--strength {source.strength}: must be from 0 (the reconstruction) to 1 (nothing is left of it)"
        )
    grid, modalities, classes = bundle.manifest.grid.shape, len(bundle.manifest.modalities), len(bundle.manifest.labels)
    if source.image.shape != (modalities, *grid) or source.label.shape != grid:
        needed = f"{(modalities, *grid)} and {grid}"
        raise InvalidInputError(
            f"the case has images {source.image.shape} and labels {source.label.shape}, not {needed}"
        )
    if source.label.max(initial=0) >= classes:
        raise InvalidInputError(f"the case has label {source.label.max()}; the bundle knows 0 to {classes - 1}")


def encode_case(sampler: VolumeSampler, source: SourceCase) -> NDArray[np.float32]:
    """The clean volume latent (C, ...) of a case."""
    images = np.moveaxis(source.image, -1, 0).astype(np.float32) * np.float32(2 / INT16_SCALE) - np.float32(1)
    slices = np.moveaxis(source.label, -1, 0)
    classes = np.arange(len(sampler.bundle.manifest.labels), dtype=np.uint8)
    labels = (slices[:, None] == classes[None, :, None, None]).astype(np.float32)
    latents = []
    for start in range(0, len(images), DECODER_SLICES):
        part = slice(start, start + DECODER_SLICES)
        position = np.arange(start, min(start + DECODER_SLICES, len(images)), dtype=np.int64)
        feeds = {"image": np.ascontiguousarray(images[part]), "label": labels[part], "position": position}
        latents.append(sampler.backend.run("encoder", feeds)["latent"])
    return sampler.backend.run("aggregator_encode", {"slices": np.concatenate(latents)[None]})["latent"][0]


class AugmentSampler:
    """Samples near a case; drives the networks as `VolumeSampler` does, on any backend."""

    in_flight = 1
    loop: LoopKind = "host"

    def __init__(self, sampler: VolumeSampler, source: SourceCase) -> None:
        self._sampler = sampler
        self.reason = f"{sampler.reason}, as augment needs it"
        self.options: SamplingOptions = sampler.options
        steps = round(source.strength * sampler.options.steps)
        self._first = sampler.options.steps - steps  # denoising step that sampling starts with
        self._clean = encode_case(sampler, source)

    def start(
        self, requests: Sequence[SampleRequest], on_step: Callable[[], None] | None = None
    ) -> Callable[[], list[Volume]]:
        """As `VolumeSampler.start`."""
        latents = self._latents(requests, on_step)
        return lambda: self._sampler.decode(requests, latents)

    def _latents(self, requests: Sequence[SampleRequest], on_step: Callable[[], None] | None) -> NDArray[np.float32]:
        """Clean latents (batch_size, C, ...); with no steps to go, the case's own in every slot that is used."""
        noise = self._sampler.noise(requests, 0)
        clean = np.zeros_like(noise)
        for request in requests:
            clean[self._sampler.slot(request)] = self._clean
        if self._first == self.options.steps:
            return clean
        point = self._sampler.points[self._first]
        state = np.float32(point.alpha) * clean + np.float32(point.sigma) * noise
        return self._sampler.denoise(requests, state.astype(np.float32, copy=False), self._first, on_step)
