"""Kernel launches as data: which entry, which grid, which arguments; the same for a GPU and for the CPU shim.

Addresses are device addresses (int). Storage is the type the networks read and write: f32, f16 or bf16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .ddim import DdimCoefficients
from .dpmpp import Dpmpp2mCoefficients

Storage = Literal["f32", "f16", "bf16"]

THREADS = 256
"""Threads a block, for every kernel."""

_MAX_BLOCKS = 4096
_MAX_ROWS = 65535


@dataclass(frozen=True)
class KernelCall:
    """One launch of `THREADS` threads a block; arguments are NumPy scalars, addresses as uint64."""

    entry: str
    grid: tuple[int, int]
    arguments: tuple[np.generic, ...]


@dataclass(frozen=True)
class LoopMemory:
    """Addresses of the sampling loop's arrays for `samples` batch slots of `size` latent elements each."""

    storage: Storage
    samples: int
    size: int
    guided: bool  # the denoiser sees 2 * samples rows: conditional ones, then unconditional ones
    state: int  # (samples, size) f32
    previous_x0: int  # (samples, size) f32; dpmpp-2m only
    prediction: int  # (samples or 2 * samples, size) storage
    sample: int  # (samples or 2 * samples, size) storage: the copy that the denoiser reads
    timestep: int  # (samples or 2 * samples,) f32
    failed: int  # (samples,) u32: 1 where a state was not finite
    seed: int  # (2,) u32: low, high
    slots: int  # (samples, 4) u32: sample low, sample high, draw offset, unused

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks for groups of eight elements along x, batch slots along y."""
        return _blocks(-(-self.size // 8)), min(self.samples, _MAX_ROWS)


def initial_latent_call(memory: LoopMemory, draw: int, first_timestep: float) -> KernelCall:
    """Draws the initial latents into `state` and `sample`, sets the timestep, clears the failure flags."""
    arguments = (
        *_addresses(memory.state, memory.sample, memory.timestep, memory.failed, memory.seed, memory.slots),
        *_unsigned(memory.size, memory.samples, memory.guided, draw),
        np.float32(first_timestep),
    )
    return KernelCall(f"initial_latent_{memory.storage}", memory.grid, arguments)


def ddim_step_call(
    memory: LoopMemory, draw: int, next_timestep: float, guidance: float, coefficients: DdimCoefficients
) -> KernelCall:
    """The step of `ddim.ddim_step`, in place; noise is `draw` plus the slot's offset."""
    c = coefficients
    arguments = (
        *_addresses(memory.state, memory.prediction, memory.sample, memory.timestep, memory.failed),
        *_addresses(memory.seed, memory.slots),
        *_unsigned(memory.size, memory.samples, memory.guided, draw),
        *_floats(next_timestep, guidance, c.x0_from_sample, c.x0_from_prediction, c.clip),
        *_floats(c.from_sample, c.from_x0, c.from_noise),
    )
    return KernelCall(f"ddim_step_{memory.storage}", memory.grid, arguments)


def dpmpp_2m_step_call(
    memory: LoopMemory, next_timestep: float, guidance: float, coefficients: Dpmpp2mCoefficients
) -> KernelCall:
    """The step of `dpmpp.dpmpp_2m_step`, in place."""
    c = coefficients
    arguments = (
        *_addresses(memory.state, memory.previous_x0, memory.prediction, memory.sample, memory.timestep),
        *_addresses(memory.failed),
        *_unsigned(memory.size, memory.samples, memory.guided),
        *_floats(next_timestep, guidance, c.x0_from_sample, c.x0_from_prediction, c.clip),
        *_floats(c.from_sample, c.from_x0, c.from_previous_x0),
    )
    return KernelCall(f"dpmpp_2m_step_{memory.storage}", memory.grid, arguments)


def slot_rows(samples: NDArray[np.uint64], draw_offsets: NDArray[np.uint32] | None = None) -> NDArray[np.uint32]:
    """The kernels' `slots` (N, 4) uint32: sample low, sample high, draw offset, 0."""
    rows = np.zeros((samples.size, 4), np.uint32)
    rows[:, 0], rows[:, 1] = samples & np.uint64(0xFFFFFFFF), samples >> np.uint64(32)
    if draw_offsets is not None:
        rows[:, 2] = draw_offsets
    return rows


@dataclass(frozen=True)
class VolumeShape:
    """The sizes of finished volumes."""

    modalities: int
    classes: int
    shape: tuple[int, int, int]  # x, y, z

    @property
    def plane(self) -> int:
        """Voxels of a slice."""
        return self.shape[0] * self.shape[1]


def assemble_call(
    storage: Storage,
    shape: VolumeShape,
    volumes: int,
    threshold: float,
    *,
    image: int,
    logits: int,
    images: int,
    labels: int,
    failed: int,
) -> KernelCall:
    """`assemble.assemble`: image (volumes * z, M, X, Y), logits (volumes * z, L, X, Y) -> images i16, labels u8.

    `failed` (volumes,) u32 becomes 1 where a value of a volume is not finite, and stays as it is elsewhere.
    """
    tiles = volumes * -(-shape.shape[2] // 32) * -(-shape.plane // 64)
    arguments = (
        *_addresses(image, logits, images, labels, failed),
        *_unsigned(volumes, shape.modalities, shape.classes, shape.shape[2], shape.plane),
        np.float32(threshold),
    )
    return KernelCall(f"assemble_{storage}", (min(tiles, _MAX_ROWS), 1), arguments)


def one_hot_call(storage: Storage, shape: VolumeShape, slices: int, *, logits: int, labels: int) -> KernelCall:
    """`assemble.one_hot`: logits (slices, L, X, Y) -> one-hot labels of the same shape."""
    groups = slices * -(-shape.plane // 8)
    arguments = (*_addresses(logits, labels), *_unsigned(slices, shape.classes, shape.plane))
    return KernelCall(f"one_hot_{storage}", (_blocks(groups), 1), arguments)


def clip_image_call(storage: Storage, elements: int, *, image: int) -> KernelCall:
    """Holds an image within -1..1 in place, as the refiner expects; NaN stays."""
    grid = (_blocks(-(-elements // 8)), 1)
    return KernelCall(f"clip_image_{storage}", grid, (*_addresses(image), *_unsigned(elements)))


def measure_blocks_count(shape: VolumeShape) -> int:
    """Partial rows a sample that `measure_calls` needs room for, each 16 i64."""
    return min(_blocks(-(-shape.plane * shape.shape[2] // 8)), 128)


def measure_calls(
    shape: VolumeShape, samples: int, *, images: int, labels: int, partial: int, rows: int
) -> tuple[KernelCall, KernelCall]:
    """`measure.measure`: images i16, labels u8 -> rows (samples, 16) i64; `partial` is scratch."""
    blocks = measure_blocks_count(shape)
    lines = min(samples, _MAX_ROWS)
    sizes = _unsigned(samples, shape.modalities, *shape.shape)
    first = KernelCall("measure_blocks", (blocks, lines), (*_addresses(images, labels, partial), *sizes))
    second = KernelCall("measure_finish", (1, lines), (*_addresses(partial, rows), *_unsigned(samples, blocks)))
    return first, second


def _blocks(threads: int) -> int:
    return max(1, min(-(-threads // THREADS), _MAX_BLOCKS))


def _addresses(*values: int) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(value) for value in values)


def _unsigned(*values: int) -> tuple[np.uint32, ...]:
    return tuple(np.uint32(value) for value in values)


def _floats(*values: float) -> tuple[np.float32, ...]:
    return tuple(np.float32(value) for value in values)
