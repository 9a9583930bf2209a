"""What differs between the forms of a model: what the denoiser is told, and how its latents become volumes.

`model_of` is the one place where the form of a bundle decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..bundle.manifest import BundleManifest, NoiseSchedule
from .batch import Batch
from .mask_first import MaskFirstModel
from .samplers import Latent
from .slices import SliceModel
from .types import OnStep, RunComponent, Told, Volume


class VolumeModel(Protocol):
    """A model as the loop sees it; everything is given and returned by batch slot."""

    @property
    def schedule(self) -> NoiseSchedule:
        """That of the denoiser."""
        ...

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of Z, without the batch axis."""
        ...

    @property
    def working_bytes(self) -> int:
        """What a sample needs at once beside its volume, without any network."""
        ...

    def rows(self, batch_size: int) -> Mapping[str, set[int]]:
        """The components that sampling calls, with the rows of their calls."""
        ...

    def tell(self, run: RunComponent, batch: Batch, on_step: OnStep | None) -> Told:
        """What the denoiser is told of the samples."""
        ...

    def told_of(self, batch: Batch, label: NDArray[np.uint8]) -> Told:
        """What decoding needs where no denoiser is asked and every sample has the mask (x, y, z) of a case."""
        ...

    def decode(self, run: RunComponent, batch: Batch, told: Told, latents: Latent) -> list[Volume]:
        """Volumes of the requests, in their order, from clean latents (batch size, ...)."""
        ...

    def encode(self, run: RunComponent, image: NDArray[np.float32], label: NDArray[np.uint8]) -> Latent:
        """The clean latent (C, ...) of slices (D, M, X, Y) in -1..1 with their labels (D, X, Y)."""
        ...

    def healthy(self, image: NDArray[np.int16], label: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Shares (3, x, y, z) of a case's healthy tissues; None where they are not told.

        The image (M, x, y, z) is as samples are written.
        """
        ...


def model_of(manifest: BundleManifest) -> VolumeModel:
    """That of a bundle."""
    return SliceModel.of(manifest) if manifest.mask_first is None else MaskFirstModel.of(manifest, manifest.mask_first)
