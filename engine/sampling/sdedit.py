"""A real case under new conditions: encoded, noised up to a strength, sampled back (SDEdit, Meng et al. 2022).

What comes out is derived from a patient's scan: the weaker the noise, the nearer to it. Treat it as patient data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..bundle.load import Bundle
from ..bundle.manifest import INT16_SCALE
from ..dicom.about import Study
from ..errors import InvalidInputError, UsageError
from ..output.scan_voxels import ScanVoxels
from .host import HostLoop
from .model import VolumeModel
from .plan import sampling_plan
from .types import LoopKind, OnStep, RunComponent, SampleRequest, SamplingOptions, Volume

Identity = Literal["keep", "replace"]
"""Whether DICOM files carry the source's patient, study and frame of reference."""


@dataclass(frozen=True)
class SourceCase:
    """A case on the model's grid, and how strongly it is noised."""

    image: NDArray[np.int16]  # (modality, x, y, z) RAS+, 0..1000, background 0, as samples are written
    label: NDArray[np.uint8]  # (x, y, z), 0..classes-1
    strength: float  # 0 returns the reconstruction, 1 starts from noise as `generate` does
    voxels: ScanVoxels | None = None  # of the scan that it was read from
    study: Study | None = None  # of DICOM, whose identity the samples are to keep

    def sha256(self) -> str:
        """Digest of image and label, and of where they come from."""
        digest = hashlib.sha256(np.ascontiguousarray(self.image).tobytes())
        digest.update(np.ascontiguousarray(self.label).tobytes())
        if self.study is not None:
            digest.update(repr(self.study).encode())
        return digest.hexdigest()


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


def encode_source(model: VolumeModel, run: RunComponent, source: SourceCase) -> NDArray[np.float32]:
    """The clean volume latent (C, ...) of a case."""
    image = np.moveaxis(source.image, -1, 0).astype(np.float32) * np.float32(2 / INT16_SCALE) - np.float32(1)
    return model.encode(run, np.ascontiguousarray(image), np.moveaxis(source.label, -1, 0))


class AugmentLoop:
    """Samples near a case; drives the networks as `HostLoop` does, on any backend.

    A model that makes the mask first draws a new one as for any sample; with no steps to go it keeps the case's own.
    """

    in_flight = 1
    kind: LoopKind = "host"

    def __init__(self, loop: HostLoop, source: SourceCase) -> None:
        self._loop, self._source = loop, source
        self.reason = f"{loop.reason}, as augment needs it"
        self.options: SamplingOptions = loop.options
        first = loop.options.steps - round(source.strength * loop.options.steps)
        self._plan = None if first == loop.options.steps else sampling_plan(loop.model.schedule, loop.options, first)
        self._clean = encode_source(loop.model, loop.run, source)
        self._shares = None if self._plan is None else loop.model.healthy(source.image, source.label)

    def start(self, requests: Sequence[SampleRequest], on_step: OnStep | None = None) -> Callable[[], list[Volume]]:
        """As `HostLoop.start`."""
        loop, plan = self._loop, self._plan
        batch = loop.batch([replace(request, shares=self._shares) for request in requests])
        latents = batch.filled(self._clean.shape, lambda _: self._clean)
        if plan is None:
            told = loop.model.told_of(batch, self._source.label)
        else:
            told = loop.model.tell(loop.run, batch, on_step)
            alpha, sigma = plan.start
            state = np.float32(alpha) * latents + np.float32(sigma) * batch.noise(self._clean.shape, 0)
            latents = loop.denoise(batch, told, state.astype(np.float32, copy=False), plan, on_step)
        return lambda: loop.model.decode(loop.run, batch, told, latents)
