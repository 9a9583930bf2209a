"""The autoencoder of a bundle, by the bundle's own ONNX graphs: slices to latents, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...engine.bundle.manifest import INT16_SCALE, BundleManifest
from ...engine.sampling.batch import Batch
from ...engine.sampling.decoding import decode_slices, encode_slices
from ...engine.sampling.model import model_of
from ...engine.sampling.small_components import drop_small_components
from ...engine.sampling.types import Backend, SampleRequest
from ...engine.scans.prepare import to_unit
from ...kernels.assemble import is_background, one_hot_labels

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Reconstruction:
    """One case after encode -> aggregate -> decode (-> refine)."""

    coarse: Float  # (z, modality, x, y) in [-1, 1]
    refined: Float | None  # the same, None for presets without refiner
    label: NDArray[np.uint8]  # (z, x, y), without small components; a model that makes the mask first keeps it


class Autoencoder(Protocol):
    """What a bundle makes of a prepared case."""

    @property
    def classes(self) -> int:
        """Label classes of the model, background included."""
        ...

    def encode(self, slices: NDArray[np.uint8], label: NDArray[np.uint8]) -> Float:
        """Latents of stored images (z, modality, x, y) and labels (z, x, y)."""
        ...

    def reconstruct(self, slices: NDArray[np.uint8], label: NDArray[np.uint8]) -> Reconstruction:
        """A prepared case through the whole model but the denoisers."""
        ...


def autoencoder_of(backend: Backend, manifest: BundleManifest) -> Autoencoder:
    """That of a bundle."""
    kind = SliceAutoencoder if manifest.mask_first is None else MaskFirstAutoencoder
    return kind(backend, manifest)


class MaskFirstAutoencoder:
    """Runs encoder, aggregator and decoder of a bundle that makes the mask first; grain is no part of it."""

    def __init__(self, backend: Backend, manifest: BundleManifest) -> None:
        assert manifest.mask_first is not None
        plain = replace(manifest, mask_first=replace(manifest.mask_first, grain=()))
        self._run, self._model = backend.run, model_of(plain)
        self.classes = len(manifest.labels)

    def encode(self, slices: NDArray[np.uint8], label: NDArray[np.uint8]) -> Float:
        """Stored images (z, modality, x, y) -> the volume latent (C, ...)."""
        return self._model.encode(self._run, to_unit(slices), label)

    def reconstruct(self, slices: NDArray[np.uint8], label: NDArray[np.uint8]) -> Reconstruction:
        """See `Autoencoder`; the mask is told the decoder's volume, not decoded."""
        batch = Batch([SampleRequest(0, 0, np.zeros(0, np.float32))], 1, 0)
        told = self._model.told_of(batch, np.moveaxis(label, 0, -1))
        (volume,) = self._model.decode(self._run, batch, told, self.encode(slices, label)[None])
        image = np.moveaxis(volume.image, -1, 0).astype(np.float32) * np.float32(2 / INT16_SCALE) - np.float32(1)
        return Reconstruction(image, None, label)


class SliceAutoencoder:
    """Runs encoder, aggregator, decoder and refiner of one bundle on prepared cases."""

    def __init__(self, backend: Backend, manifest: BundleManifest) -> None:
        self._backend = backend
        self._manifest = manifest

    @property
    def classes(self) -> int:
        """Label classes of the model, background included."""
        return len(self._manifest.labels)

    def encode(self, slices: NDArray[np.uint8], label: NDArray[np.uint8]) -> Float:
        """Stored images (z, modality, x, y) and labels (z, x, y) -> slice latents (z, c, h, w)."""
        seen = np.minimum(label, self.classes - 1)  # a binary model sees the whole tumour
        return encode_slices(self._backend.run, to_unit(slices), one_hot_labels(seen, self.classes))

    def reconstruct(self, slices: NDArray[np.uint8], label: NDArray[np.uint8]) -> Reconstruction:
        """A prepared case through the whole model but the denoiser."""
        latents = self.encode(slices, label)
        volume = self._backend.run("aggregator_encode", {"slices": latents[None]})["latent"]
        latents = self._backend.run("aggregator", {"latent": volume})["slices"][0]
        has_refiner = "refiner" in self._manifest.components
        decoded = decode_slices(self._backend.run, latents, refined=has_refiner)
        made = decoded.label_logits.argmax(axis=1).astype(np.uint8)
        return Reconstruction(
            self._clean(decoded.coarse, made),
            self._clean(decoded.image, made) if has_refiner else None,
            drop_small_components(made),
        )

    def _clean(self, image: Float, label: NDArray[np.uint8]) -> Float:
        """Clip to [-1, 1] and put the background to exactly -1, as the engine writes it."""
        background = is_background(image, label, self._manifest.background_threshold)
        return np.where(background[:, None], np.float32(-1), np.clip(image, -1, 1))
