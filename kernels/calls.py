"""Kernel launches as data: which entry, which grid, which parameters; the same for a GPU and for the CPU shim.

A kernel takes one struct. Its fields stand here and in its .cu or .cuh file, in the same order: addresses of device
memory (uint64), sizes (uint32), numbers (float32), which C and NumPy lay out alike.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .step import StepCoefficients

THREADS = 256
"""Threads a block, for every kernel."""

_MAX_BLOCKS = 4096
_MAX_ROWS = 65535


def _struct(addresses: str, sizes: str, numbers: str = "") -> np.dtype[np.void]:
    """The layout of a C struct with these fields."""
    kinds = (("u8", addresses), ("u4", sizes), ("f4", numbers))
    return np.dtype([(name, kind) for kind, names in kinds for name in names.split()], align=True)


STEP = _struct(
    "state previous_x0 prediction sample timestep failed seed slots",
    "size samples guided draw",
    "next_timestep guidance x0_from_sample x0_from_prediction from_sample from_x0 from_noise from_previous_x0 clip",
)
WORDS = _struct("words seed slots", "blocks samples draw")
ASSEMBLE = _struct("image logits images labels failed", "modalities classes depth plane volumes", "threshold")
ONE_HOT = _struct("logits labels", "modalities classes depth plane slices")
CLIP = _struct("image", "elements")
STATISTICS = _struct("values partial rows", "images voxels blocks")


@dataclass(frozen=True)
class KernelCall:
    """One launch of `THREADS` threads a block; `parameters` are the bytes of the kernel's struct."""

    entry: str
    grid: tuple[int, int]
    parameters: bytes


def _call(entry: str, grid: tuple[int, int], struct: np.dtype[np.void], **fields: Any) -> KernelCall:
    record = np.zeros((), struct)
    for name, value in fields.items():
        record[name] = value
    return KernelCall(entry, grid, record.tobytes())


@dataclass(frozen=True)
class LoopMemory:
    """Addresses of the sampling loop's arrays for `samples` batch slots of `size` latent elements each."""

    samples: int
    size: int
    guided: bool  # the denoiser sees 2 * samples rows: conditional ones, then unconditional ones
    state: int  # (samples, size) f32
    previous_x0: int  # (samples, size) f32; dpmpp-2m only
    prediction: int  # (samples or 2 * samples, size) f32
    sample: int  # (samples or 2 * samples, size) f32: the copy that the denoiser reads
    timestep: int  # (samples or 2 * samples,) f32
    failed: int  # (samples,) u32: 1 where a state was not finite
    seed: int  # (2,) u32: low, high
    slots: int  # (samples, 4) u32: sample low, sample high, draw offset, unused


def initial_latent_call(memory: LoopMemory, draw: int, first_timestep: float) -> KernelCall:
    """Draws the initial latents into `state` and `sample`, sets the timestep, clears the failure flags."""
    return _loop_call("initial_latent", memory, draw=draw, next_timestep=first_timestep)


def ddim_step_call(
    memory: LoopMemory, draw: int, next_timestep: float, guidance: float | None, coefficients: StepCoefficients
) -> KernelCall:
    """The step of `ddim.ddim_step`, in place; noise is `draw` plus the slot's offset."""
    step = {"draw": draw, "next_timestep": next_timestep, "guidance": guidance or 0.0, **asdict(coefficients)}
    return _loop_call("ddim_step", memory, **step)


def dpmpp_2m_step_call(
    memory: LoopMemory, next_timestep: float, guidance: float | None, coefficients: StepCoefficients
) -> KernelCall:
    """The step of `dpmpp.dpmpp_2m_step`, in place."""
    step = {"next_timestep": next_timestep, "guidance": guidance or 0.0, **asdict(coefficients)}
    return _loop_call("dpmpp_2m_step", memory, **step)


def _loop_call(entry: str, memory: LoopMemory, **step: Any) -> KernelCall:
    """Groups of eight elements along x, batch slots along y."""
    grid = _blocks(-(-memory.size // 8)), min(memory.samples, _MAX_ROWS)
    return _call(entry, grid, STEP, **asdict(memory), **step)


def philox_words_call(blocks: int, samples: int, draw: int, *, words: int, seed: int, slots: int) -> KernelCall:
    """`noise.random_words`: words (samples, blocks, 4) u32 of a draw."""
    grid = _blocks(blocks), min(samples, _MAX_ROWS)
    fields = {"words": words, "seed": seed, "slots": slots, "blocks": blocks, "samples": samples, "draw": draw}
    return _call("philox_words", grid, WORDS, **fields)


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

    @property
    def voxels(self) -> int:
        """Voxels of a volume."""
        return self.plane * self.shape[2]

    @property
    def fields(self) -> dict[str, int]:
        """As the kernels' structs name them."""
        return {
            "modalities": self.modalities, "classes": self.classes, "depth": self.shape[2], "plane": self.plane,
        }  # fmt: skip


def assemble_call(
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
    arrays = {"image": image, "logits": logits, "images": images, "labels": labels, "failed": failed}
    grid = (min(tiles, _MAX_ROWS), 1)
    return _call("assemble", grid, ASSEMBLE, **arrays, **shape.fields, volumes=volumes, threshold=threshold)


def one_hot_call(shape: VolumeShape, slices: int, *, logits: int, labels: int) -> KernelCall:
    """`assemble.one_hot`: logits (slices, L, X, Y) -> one-hot labels of the same shape."""
    grid = (_blocks(slices * -(-shape.plane // 8)), 1)
    return _call("one_hot", grid, ONE_HOT, logits=logits, labels=labels, **shape.fields, slices=slices)


def clip_image_call(elements: int, *, image: int) -> KernelCall:
    """Holds an image within -1..1 in place, as the refiner expects; NaN stays."""
    return _call("clip_image", (_blocks(-(-elements // 8)), 1), CLIP, image=image, elements=elements)


def statistics_blocks_count(voxels: int) -> int:
    """Partial rows an image that `statistics_calls` needs room for, each 4 i32."""
    return min(_blocks(-(-voxels // 8)), 128)


def statistics_calls(
    voxels: int, images: int, *, values: int, partial: int, rows: int
) -> tuple[KernelCall, KernelCall]:
    """`statistics.image_statistics`: values (images, voxels) i16 -> rows (images, 4) i32; `partial` is scratch."""
    blocks, lines = statistics_blocks_count(voxels), min(images, _MAX_ROWS)
    fields = {
        "values": values, "partial": partial, "rows": rows, "images": images, "voxels": voxels, "blocks": blocks,
    }  # fmt: skip
    first = _call("statistics_blocks", (blocks, lines), STATISTICS, **fields)
    return first, _call("statistics_finish", (1, lines), STATISTICS, **fields)


def _blocks(threads: int) -> int:
    return max(1, min(-(-threads // THREADS), _MAX_BLOCKS))
