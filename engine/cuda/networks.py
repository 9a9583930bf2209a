"""A bundle on the GPU loop: its shapes, its components as ONNX Runtime CUDA sessions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...kernels.calls import VolumeShape
from ..bundle.load import Bundle
from ..bundle.manifest import BundleManifest
from ..cuda_sessions import open_cuda_session
from ..sampling.decoding import DECODER_SLICES
from ..sampling.slabs import SLABS_AT_ONCE
from .device import Device, DeviceNetwork, Launching
from .device_networks import OnnxRuntimeNetwork
from .gpu import CudaDevice
from .loop import LoopShape
from .volumes import DecodingShape, VolumeGenerator

SAMPLED = ("mask_denoiser", "denoiser", "aggregator", "decoder", "refiner")
"""The components that generation runs; a preset may lack the first and the last."""

DENOISERS = frozenset({"denoiser", "mask_denoiser"})
SLICE_COMPONENTS = frozenset({"encoder", "decoder"})  # axis 0 counts slices or slabs, not volumes


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
    decoding = DecodingShape(
        volume, decoder_latent_shape(bundle), manifest.background_threshold, decoder_rows(manifest)
    )
    loop = LoopShape(batch, manifest.latent.shape, len(manifest.condition_columns), guided)
    return VolumeGenerator(device, components, loop, decoding, streams, use_graphs)


class OnnxRuntimeNetworks:
    """A bundle's components in ONNX Runtime on GPU `index`, as `loops.Networks`.

    Work of ONNX Runtime is not captured from outside, which versions up to 1.31 do not follow. With `replays` it
    captures each network itself; None: found out in a process of its own, once.
    """

    def __init__(self, bundle: Bundle, index: int, precision: str, replays: bool | None = None) -> None:
        self._bundle, self._index, self.precision = bundle, index, precision
        self._launching = None if replays is None else Launching("graphs" if replays else "launches", "")

    def open_device(self) -> CudaDevice:
        """The GPU."""
        return CudaDevice(self._index)

    def components(self, rows: int, device: Device, streams: tuple[Any, Any]) -> dict[str, DeviceNetwork]:
        """CUDA sessions, the denoiser's on the first stream, the others' on the second.

        BackendUnavailableError where ONNX Runtime has no CUDA or would fall back to the CPU.
        """
        return {
            name: self.component(name, rows_of(name, rows, self._bundle.manifest), device, streams[name != "denoiser"])
            for name in SAMPLED
            if self._bundle.has(name)
        }

    def refuse_graphs(self, reason: str) -> None:
        """Run without graphs from now on."""
        self._launching = Launching("launches", reason)

    def component(self, name: str, rows: int, device: Device, stream: Any) -> DeviceNetwork:
        """One component for a number of rows on a stream."""
        if self._launching is None:
            from .replay_trial import replay_refusal

            reason = replay_refusal(self._bundle, self._index, self.precision)
            self._launching = Launching("graphs" if reason is None else "launches", reason or "")
        # each sample's latent is at another address: a graph for each would cost more than it saves
        launching = self._launching if name != "aggregator" else Launching("launches", "")
        path = self._bundle.component_path(name, self.precision)
        replays = launching.kind == "graphs"
        session = open_cuda_session(path, self._index, rows, self.precision, stream.handle, replays=replays)
        return OnnxRuntimeNetwork(session, "cuda", self._index, launching, lambda: device.memory()[0])


def rows_of(component: str, denoiser_rows: int, manifest: BundleManifest) -> int:
    """Rows of a component's runs on a device: the denoiser's batch, a chunk of slices or slabs, one volume."""
    if component in DENOISERS:
        return denoiser_rows
    return decoder_rows(manifest) if component in SLICE_COMPONENTS else 1


def decoder_rows(manifest: BundleManifest) -> int:
    """Slices, or slabs, that encoder and decoder take at once: as on a CPU at most, and a volume in equal parts."""
    form = manifest.mask_first
    whole = manifest.grid.shape[2] // (1 if form is None else form.slab_slices)
    most = DECODER_SLICES if form is None else SLABS_AT_ONCE
    return max(rows for rows in range(1, min(whole, most) + 1) if whole % rows == 0)


def decoder_latent_shape(bundle: Bundle) -> tuple[int, int, int]:
    """(c, h, w) of the decoder's input, from its tensor specification (S, c, h, w)."""
    (spec,) = (tensor for tensor in bundle.manifest.components["decoder"].inputs if tensor.name == "latent")
    _, channels, height, width = spec.shape
    return int(channels), int(height), int(width)
