"""The loops of the form of slices: from conditions to finished volumes on a device."""

from __future__ import annotations

from ...kernels.calls import VolumeShape
from .loops import DeviceLoops, Ground
from .shapes import decoder_latent_shape, decoder_rows, loop_shape
from .volumes import DecodingShape, VolumeGenerator


class VolumeLoops(DeviceLoops[VolumeGenerator]):
    """See `DeviceLoops`."""

    def _work(self, batch: int, guided: bool, on: Ground) -> VolumeGenerator:
        manifest = self._bundle.manifest
        volume = VolumeShape(len(manifest.modalities), len(manifest.labels), manifest.grid.shape)
        decoding = DecodingShape(
            volume, decoder_latent_shape(self._bundle), manifest.background_threshold, decoder_rows(manifest)
        )
        shape = loop_shape(manifest, "denoiser", batch, guided)
        return VolumeGenerator(on.device, on.components, shape, decoding, on.streams, on.use_graphs)
