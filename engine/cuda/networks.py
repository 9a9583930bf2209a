"""A bundle on the GPU loop: its shapes, its components as ONNX Runtime CUDA sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...kernels.calls import VolumeShape
from ..bundle.load import Bundle
from .device import Device, DeviceNetwork
from .device_networks import OnnxRuntimeNetwork, open_cuda_session
from .gpu import CudaDevice
from .loop import LoopShape
from .volumes import DecodingShape, VolumeGenerator

SAMPLED = ("mask_denoiser", "denoiser", "aggregator", "decoder", "refiner")
"""The components that generation runs; a preset may lack the first and the last."""


def open_generator(
    bundle: Bundle,
    batch: int,
    guided: bool,
    device: Device,
    components: Mapping[str, DeviceNetwork],
    streams: tuple[Any, Any],
    use_graphs: bool,
) -> VolumeGenerator:
    """The bundle's volumes in batches of `batch`; DeviceMemoryError where the device has no room.

    `streams`: the denoiser's, and that of the other components.
    """
    manifest = bundle.manifest
    volume = VolumeShape(len(manifest.modalities), len(manifest.labels), manifest.grid.shape)
    decoding = DecodingShape(volume, _slice_latent(bundle), manifest.background_threshold)
    loop = LoopShape(batch, manifest.latent.shape, len(manifest.condition_columns), guided)
    return VolumeGenerator(device, components, loop, decoding, streams, use_graphs)


class OnnxRuntimeNetworks:
    """A bundle's components in ONNX Runtime on GPU `index`, as `loops.Networks`."""

    def __init__(self, bundle: Bundle, index: int) -> None:
        self._bundle, self._index = bundle, index

    def open_device(self) -> CudaDevice:
        """The GPU."""
        return CudaDevice(self._index)

    def components(self, rows: int, streams: tuple[Any, Any]) -> dict[str, DeviceNetwork]:
        """CUDA sessions, the denoiser's on the first stream, the others' on the second.

        BackendUnavailableError where ONNX Runtime has no CUDA or would fall back to the CPU.
        """
        return {name: self.component(name, streams[name != "denoiser"]) for name in SAMPLED if self._bundle.has(name)}

    def capture_refusal(self) -> str | None:
        """Found out in a process of its own, because ONNX Runtime may end the one that captures it."""
        from .capture_trial import capture_refusal

        return capture_refusal(self._bundle, self._index)

    def component(self, name: str, stream: Any) -> DeviceNetwork:
        """One component on a stream."""
        session = open_cuda_session(self._bundle.component_path(name), stream.handle, self._index)
        return OnnxRuntimeNetwork(session, "cuda", self._index)


def _slice_latent(bundle: Bundle) -> tuple[int, int, int]:
    """(c, h, w) of the decoder's input, from its tensor specification (S, c, h, w)."""
    (spec,) = (tensor for tensor in bundle.manifest.components["decoder"].inputs if tensor.name == "latent")
    _, channels, height, width = spec.shape
    return int(channels), int(height), int(width)
