"""The autoencoder of a bundle, by the bundle's own ONNX graphs: slices to latents, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...engine.bundle.manifest import BundleManifest
from ...engine.sampling.types import Backend
from ...engine.scans.prepare import to_unit

SLICES_AT_ONCE = 16

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Reconstruction:
    """One case after encode -> aggregate -> decode (-> refine)."""

    coarse: Float  # (z, modality, x, y) in [-1, 1]
    refined: Float | None  # the same, None for presets without refiner
    label: NDArray[np.uint8]  # (z, x, y)


class Autoencoder:
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
        pieces = []
        for at in self._batches(len(label)):
            inputs = {"image": to_unit(slices[at]), "label": self._one_hot(label[at]), "position": self._positions(at)}
            pieces.append(self._backend.run("encoder", inputs)["latent"])
        return np.concatenate(pieces)

    def reconstruct(self, slices: NDArray[np.uint8], label: NDArray[np.uint8]) -> Reconstruction:
        """A prepared case through the whole model but the denoiser."""
        latents = self.encode(slices, label)
        volume = self._backend.run("aggregator_encode", {"slices": latents[None]})["latent"]
        latents = self._backend.run("aggregator", {"latent": volume})["slices"][0]
        images, logits = [], []
        for at in self._batches(len(label)):
            decoded = self._backend.run("decoder", {"latent": latents[at], "position": self._positions(at)})
            images.append(decoded["image"])
            logits.append(decoded["label_logits"])
        raw = np.clip(np.concatenate(images), -1, 1)
        made_label = np.concatenate(logits).argmax(axis=1).astype(np.uint8)
        refined = None
        if "refiner" in self._manifest.components:
            inputs = {"image": raw[None], "label": self._one_hot(made_label)[None]}
            refined = self._clean(self._backend.run("refiner", inputs)["refined"][0], made_label)
        return Reconstruction(self._clean(raw, made_label), refined, made_label)

    def _one_hot(self, label: NDArray[np.uint8]) -> Float:
        """(z, x, y) -> (z, classes, x, y); a binary model sees the whole tumour."""
        seen = np.minimum(label, self.classes - 1)
        return np.moveaxis(np.eye(self.classes, dtype=np.float32)[seen], -1, 1).copy()

    def _clean(self, image: Float, label: NDArray[np.uint8]) -> Float:
        """Clip to [-1, 1] and put the background to exactly -1, as the engine writes it."""
        unit = np.clip(image, -1, 1)
        dark = ((unit + 1) / 2 < self._manifest.background_threshold).all(axis=1) & (label == 0)
        return np.where(dark[:, None], np.float32(-1), unit)

    @staticmethod
    def _batches(depth: int) -> list[slice]:
        return [slice(start, min(start + SLICES_AT_ONCE, depth)) for start in range(0, depth, SLICES_AT_ONCE)]

    @staticmethod
    def _positions(at: slice) -> NDArray[np.int64]:
        return np.arange(at.start, at.stop, dtype=np.int64)
