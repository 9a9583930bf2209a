"""A bundle on the GPU loop: its sampling plan, its shapes, its components as ONNX Runtime CUDA sessions."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...kernels.calls import VolumeShape
from ...kernels.ddim import ddim_coefficients
from ...kernels.dpmpp import dpmpp_2m_coefficients
from ..bundle import Bundle, NoiseSchedule
from ..schedule import sampling_points
from .cuda_components import OnnxRuntimeComponent, open_cuda_session
from .cuda_device import CudaDevice
from .cuda_graph import LoopShape, SamplingPlan
from .cuda_volumes import FinishShape, VolumeGenerator
from .device import Component, Device

if TYPE_CHECKING:
    from ..loop import SamplingOptions

SAMPLED = ("denoiser", "aggregator", "decoder", "refiner")
"""The components that generation runs; a preset may lack the refiner."""


def sampling_plan(schedule: NoiseSchedule, options: SamplingOptions) -> SamplingPlan:
    """The steps that `samplers.py` takes with these options, as data. UsageError as in `sampling_points`."""
    points = sampling_points(schedule, options.steps)
    kind = schedule.prediction_type
    timesteps = tuple(float(point.timestep) for point in points if point.timestep is not None)
    guidance = None if options.guidance == 1.0 else options.guidance
    pairs = list(pairwise(points))
    if options.sampler == "ddim":
        return SamplingPlan(
            timesteps,
            tuple(ddim_coefficients(kind, a.alpha, a.sigma, b.alpha, b.sigma, options.eta) for a, b in pairs),
            guidance,
        )
    safe = [point.log_safe for point in points]
    coefficients = tuple(
        dpmpp_2m_coefficients(kind, safe[k - 1] if k and then.sigma > 0.0 else None, safe[k], (then.alpha, then.sigma))
        for k, (_, then) in enumerate(pairs)
    )
    return SamplingPlan(timesteps, coefficients, guidance)


def open_generator(
    bundle: Bundle,
    batch: int,
    guided: bool,
    device: Device,
    components: Mapping[str, Component],
    streams: tuple[Any, Any],
    use_graphs: bool,
) -> VolumeGenerator:
    """The bundle's volumes in batches of `batch`; DeviceMemoryError where the device has no room.

    `streams`: the denoiser's, and that of the other components.
    """
    manifest = bundle.manifest
    volume = VolumeShape(len(manifest.modalities), len(manifest.labels), manifest.grid.shape)
    finish = FinishShape(volume, _slice_latent(bundle), manifest.background_threshold)
    loop = LoopShape(batch, manifest.latent.shape, len(manifest.condition_columns), guided)
    return VolumeGenerator(device, components, loop, finish, streams, use_graphs)


class OnnxRuntimeNetworks:
    """A bundle's components in ONNX Runtime on GPU `index`, as `device_loops.Networks`."""

    def __init__(self, bundle: Bundle, index: int) -> None:
        self._bundle, self._index = bundle, index

    def open_device(self) -> CudaDevice:
        """The GPU."""
        return CudaDevice(self._index)

    def components(self, rows: int, streams: tuple[Any, Any]) -> dict[str, Component]:
        """CUDA sessions, the denoiser's on the first stream, the others' on the second.

        BackendUnavailableError where ONNX Runtime has no CUDA or would fall back to the CPU.
        """
        return {name: self.component(name, streams[name != "denoiser"]) for name in SAMPLED if self._bundle.has(name)}

    def capture_refusal(self) -> str | None:
        """Found out in a process of its own, because ONNX Runtime may end the one that captures it."""
        from .capture_trial import capture_refusal

        return capture_refusal(self._bundle, self._index)

    def component(self, name: str, stream: Any) -> Component:
        """One component on a stream."""
        session = open_cuda_session(self._bundle.component_path(name), stream.handle, self._index)
        return OnnxRuntimeComponent(session, "cuda", self._index)


def _slice_latent(bundle: Bundle) -> tuple[int, int, int]:
    """(c, h, w) of the decoder's input, from its tensor specification (S, c, h, w)."""
    (spec,) = (tensor for tensor in bundle.manifest.components["decoder"].inputs if tensor.name == "latent")
    _, channels, height, width = spec.shape
    return int(channels), int(height), int(width)
