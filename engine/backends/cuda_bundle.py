"""A bundle on the GPU loop: its sampling plan, its shapes, its components as ONNX Runtime CUDA sessions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...kernels.calls import VolumeShape
from ...kernels.ddim import ddim_coefficients
from ...kernels.dpmpp import dpmpp_2m_coefficients
from ..bundle import Bundle, NoiseSchedule
from ..schedule import sampling_points
from .cuda_components import OnnxRuntimeComponent, open_cuda_session
from .cuda_graph import LoopShape, SamplingPlan, fit_batch
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
    options: SamplingOptions,
    device: Device,
    components: Mapping[str, Component],
    streams: tuple[Any, Any],
    use_graphs: bool,
    warn: Callable[[str], None],
) -> tuple[VolumeGenerator, int]:
    """(generator, batch size): the options' batch size, or the largest halving of it that the device has room for.

    `streams`: the denoiser's, and that of the other components. DeviceMemoryError where one sample does not fit.
    """
    manifest = bundle.manifest
    volume = VolumeShape(len(manifest.modalities), len(manifest.labels), manifest.grid.shape)
    channels, height, width = _slice_latent(bundle)
    finish = FinishShape(volume, (channels, height, width), manifest.background_threshold)

    def build(batch: int) -> VolumeGenerator:
        columns = len(manifest.condition_columns)
        loop = LoopShape(batch, manifest.latent.shape, columns, options.guidance != 1.0)
        return VolumeGenerator(device, components, loop, finish, streams, use_graphs)

    return fit_batch(build, options.batch_size, warn)


def onnxruntime_components(
    bundle: Bundle, device_id: int, sampling_handle: int, finishing_handle: int
) -> dict[str, OnnxRuntimeComponent]:
    """The bundle's components as CUDA sessions on two existing streams (CUstream handles).

    BackendUnavailableError where ONNX Runtime has no CUDA or would fall back to the CPU.
    """
    return {
        name: OnnxRuntimeComponent(
            open_cuda_session(
                bundle.component_path(name), sampling_handle if name == "denoiser" else finishing_handle, device_id
            ),
            "cuda",
            device_id,
        )
        for name in SAMPLED
        if bundle.has(name)
    }


def _slice_latent(bundle: Bundle) -> tuple[int, int, int]:
    """(c, h, w) of the decoder's input, from its tensor specification (S, c, h, w)."""
    (spec,) = (tensor for tensor in bundle.manifest.components["decoder"].inputs if tensor.name == "latent")
    _, channels, height, width = spec.shape
    return int(channels), int(height), int(width)
