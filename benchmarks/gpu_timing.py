"""Times on a GPU: medians over CUDA events after a warm-up, and the bandwidth of the kernels that move the data."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..engine.bundle.checks import check_inputs
from ..engine.bundle.load import Bundle
from ..engine.cuda.device import Buffer
from ..engine.cuda.gpu import CudaDevice
from ..engine.errors import BackendUnavailableError
from ..kernels.calls import LoopMemory, VolumeShape, assemble_call, ddim_step_call, slot_rows
from ..kernels.ddim import ddim_coefficients
from ..kernels.launcher import cuda_driver

WARM_UP, REPEATS = 5, 30
LONGEST_S, FEWEST = 4.0, 3  # what ends on the host is repeated no more after so long, when it was this often
LATENTS, LATENT_SIZE = 1024, 65536  # 1.1 GB moved a step: far beyond any cache
VOLUMES, VOLUME = 16, VolumeShape(modalities=4, classes=4, shape=(128, 128, 64))


def milliseconds(stream: Any, work: Callable[[], None]) -> float:
    """Median of `REPEATS` runs of what `work` queues on the stream, by the device's clock.

    BackendUnavailableError where the driver says that a run failed.
    """
    driver = cuda_driver()
    times = []
    try:
        for index in range(WARM_UP + REPEATS):
            start, stop = driver.Event(), driver.Event()
            start.record(stream)
            work()
            stop.record(stream)
            stop.synchronize()
            if index >= WARM_UP:
                times.append(stop.time_since(start))
    except driver.Error as error:
        raise BackendUnavailableError(f"the GPU failed while it was timed: {error}") from error
    return float(np.median(times))


def wall_milliseconds(work: Callable[[], object]) -> float:
    """Median of up to `REPEATS` runs of what ends on the host, after one that does not count."""
    work()
    times: list[float] = []
    while len(times) < FEWEST or (len(times) < REPEATS and sum(times) < LONGEST_S):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def bandwidth_of_copy(device: CudaDevice) -> float:
    """GB/s (read plus written) of a copy within the device's memory."""
    driver, stream = cuda_driver(), device.stream()
    size = LATENTS * LATENT_SIZE
    source, target = device.allocate((size,), "float32"), device.allocate((size,), "float32")
    ms = milliseconds(stream, lambda: driver.memcpy_dtod_async(target.address, source.address, source.nbytes, stream))
    return 2 * source.nbytes / ms / 1e6


def bandwidth_of_ddim_step(device: CudaDevice) -> float:
    """GB/s of a deterministic step without guidance: state read and written, prediction read, copy written."""
    stream = device.stream()
    names = ("state", "prediction", "sample")
    buffers = {name: _zeros(device, (LATENTS, LATENT_SIZE), "float32", stream) for name in names}
    slots = slot_rows(np.arange(LATENTS, dtype=np.uint64))
    small = {
        "timestep": _zeros(device, (LATENTS,), "float32", stream),
        "failed": _zeros(device, (LATENTS,), "uint32", stream),
        "seed": _zeros(device, (2,), "uint32", stream),
        "slots": device.allocate(slots.shape, "uint32"),
    }
    device.upload(small["slots"], slots, stream)
    addresses = {name: buffer.address for name, buffer in {**buffers, **small}.items()}
    memory = LoopMemory(LATENTS, LATENT_SIZE, False, previous_x0=0, **addresses)
    call = ddim_step_call(memory, 1, 0.0, None, ddim_coefficients("v_prediction", 0.6, 0.8, 0.8, 0.6))
    ms = milliseconds(stream, lambda: device.launch(call, stream))
    return (2 * buffers["state"].nbytes + buffers["prediction"].nbytes + buffers["sample"].nbytes) / ms / 1e6


def bandwidth_of_assemble(device: CudaDevice) -> float:
    """GB/s of assembling volumes of four modalities and four classes, each value counted once."""
    stream = device.stream()
    x, y, z = VOLUME.shape
    image = _zeros(device, (VOLUMES * z, VOLUME.modalities, x, y), "float32", stream)
    logits = _zeros(device, (VOLUMES * z, VOLUME.classes, x, y), "float32", stream)
    images = device.allocate((VOLUMES, VOLUME.modalities, x, y, z), "int16")
    labels = device.allocate((VOLUMES, x, y, z), "uint8")
    failed = device.allocate((VOLUMES,), "uint32")
    call = assemble_call(
        VOLUME,
        VOLUMES,
        0.1,
        image=image.address,
        logits=logits.address,
        images=images.address,
        labels=labels.address,
        failed=failed.address,
    )
    ms = milliseconds(stream, lambda: device.launch(call, stream))
    return sum(buffer.nbytes for buffer in (image, logits, images, labels)) / ms / 1e6


def torch_call_ms(bundle: Bundle, rows: int, precision: str, compiled: bool) -> float:
    """Median milliseconds of one call of a bundle's denoiser (random weights) in PyTorch on the current CUDA device."""
    import torch

    denoiser: Any = torch_denoiser(bundle.manifest.preset).cuda().eval()
    if compiled:
        denoiser = torch.compile(denoiser, mode="reduce-overhead", fullgraph=True)
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    given = check_inputs(bundle.manifest.components["denoiser"], rows)
    inputs = {name: torch.from_numpy(np.ascontiguousarray(values)).cuda() for name, values in given.items()}
    times = []
    with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        for index in range(WARM_UP + REPEATS):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            denoiser(**inputs)
            stop.record()
            stop.synchronize()
            if index >= WARM_UP:
                times.append(start.elapsed_time(stop))
    return float(np.median(times))


def torch_denoiser(preset: str) -> Any:
    """The denoiser of a preset of either form, with random weights."""
    from ..train.config import MaskFirstConfig, load_preset

    config = load_preset(preset)
    if isinstance(config, MaskFirstConfig):
        from ..train.networks.planar import ImageDenoiser

        return ImageDenoiser(config.denoiser, config.latent_shape, len(config.tissues), config.autoencoder.slices)
    from ..train.build import system_latent_shape
    from ..train.latents import condition_names
    from ..train.networks.denoiser import Denoiser

    return Denoiser(config.denoiser, system_latent_shape(config), condition_names(config))


def _zeros(device: CudaDevice, shape: tuple[int, ...], dtype: str, stream: Any) -> Buffer:
    buffer = device.allocate(shape, dtype)
    cuda_driver().memset_d8_async(buffer.address, 0, buffer.nbytes, stream)
    return buffer
