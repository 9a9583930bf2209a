"""A real case under new conditions: encoded, noised up to a strength, sampled back (SDEdit, Meng et al. 2022).

What comes out is derived from a patient's scan: the weaker the noise, the nearer to it. Treat it as patient data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...kernels.assemble import one_hot_labels
from ..bundle.load import Bundle
from ..bundle.manifest import INT16_SCALE
from ..errors import InvalidInputError, UsageError
from .decoding import encode_volume
from .host import HostLoop
from .plan import sampling_plan
from .types import LoopKind, RunComponent, SampleRequest, SamplingOptions, Volume


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


def encode_source(run: RunComponent, source: SourceCase, classes: int) -> NDArray[np.float32]:
    """The clean volume latent (C, ...) of a case."""
    image = np.moveaxis(source.image, -1, 0).astype(np.float32) * np.float32(2 / INT16_SCALE) - np.float32(1)
    label = one_hot_labels(np.moveaxis(source.label, -1, 0), classes)
    return encode_volume(run, np.ascontiguousarray(image), label)


class AugmentLoop:
    """Samples near a case; drives the networks as `HostLoop` does, on any backend."""

    in_flight = 1
    kind: LoopKind = "host"

    def __init__(self, loop: HostLoop, source: SourceCase) -> None:
        self._loop = loop
        self.reason = f"{loop.reason}, as augment needs it"
        self.options: SamplingOptions = loop.options
        first = loop.options.steps - round(source.strength * loop.options.steps)
        self._plan = None if first == loop.options.steps else sampling_plan(loop.model.schedule, loop.options, first)
        self._clean = encode_source(loop.run, source, loop.model.classes)

    def start(
        self, requests: Sequence[SampleRequest], on_step: Callable[[], None] | None = None
    ) -> Callable[[], list[Volume]]:
        """As `HostLoop.start`."""
        latents = self._latents(requests, on_step)
        return lambda: self._loop.decode(requests, latents)

    def _latents(self, requests: Sequence[SampleRequest], on_step: Callable[[], None] | None) -> NDArray[np.float32]:
        """Clean latents (batch_size, C, ...); with no steps to go, the case's own in every slot that is used."""
        noise = self._loop.noise(requests, 0)
        clean = np.zeros_like(noise)
        for request in requests:
            clean[self._loop.slot(request)] = self._clean
        if self._plan is None:
            return clean
        alpha, sigma = self._plan.start
        state = np.float32(alpha) * clean + np.float32(sigma) * noise
        return self._loop.denoise(requests, state.astype(np.float32, copy=False), self._plan, on_step)
