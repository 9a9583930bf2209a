"""Kernels called with host arrays: upload, launch, download. For checking kernels against their NumPy references."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.cuda.device import DTYPES, Buffer, Device
from ..kernels import calls
from ..kernels.calls import LoopMemory, Storage, VolumeShape
from ..kernels.ddim import DdimCoefficients
from ..kernels.dpmpp import Dpmpp2mCoefficients
from ..kernels.measure import COLUMNS
from ..kernels.noise import split_words


def to_storage(values: NDArray[np.floating], storage: Storage) -> NDArray[Any]:
    """Values rounded (to nearest, ties to even) to a storage type; bf16 as uint16 bits."""
    if storage != "bf16":
        return np.ascontiguousarray(values, DTYPES[storage])
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded.astype(np.uint16))


def from_storage(values: NDArray[Any], storage: Storage) -> NDArray[np.float32]:
    """float32 values of stored ones."""
    if storage != "bf16":
        return values.astype(np.float32)
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)


class KernelArrays:
    """Runs single kernels on a device; every output is poisoned (all bits set: NaN, -1) first."""

    def __init__(self, device: Device, storage: Storage) -> None:
        self.device = device
        self.storage: Storage = storage
        self._stream = device.stream()

    def put(self, values: NDArray[Any], dtype: str) -> Buffer:
        """A buffer with these values."""
        buffer = self.device.allocate(values.shape, dtype)
        self.device.upload(buffer, np.ascontiguousarray(values), self._stream)
        return buffer

    def poisoned(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """A buffer with all bits set."""
        size = int(np.prod(shape)) * DTYPES[dtype].itemsize
        return self.put(np.full(size, 0xFF, np.uint8).view(DTYPES[dtype]).reshape(shape), dtype)

    def get(self, buffer: Buffer) -> NDArray[Any]:
        """The values of a buffer, when all work is done."""
        values = np.empty(buffer.shape, DTYPES[buffer.dtype])
        self.device.download(buffer, values, self._stream)
        self.device.synchronize(self.device.record(self._stream))
        return values

    def words(self, seed: int, samples: list[int], draw: int, blocks: int) -> NDArray[np.uint32]:
        """Philox words (samples, blocks, 4)."""
        out = self.poisoned((len(samples), blocks, 4), "uint32")
        slots = self.put(calls.slot_rows(np.array(samples, np.uint64)), "uint32")
        seeds = self.put(split_words(seed), "uint32")
        arguments = (*map(np.uint64, (out.address, seeds.address, slots.address)),)
        sizes = (*map(np.uint32, (blocks, len(samples), draw)),)
        grid = (max(1, min(4096, -(-blocks // calls.THREADS))), len(samples))
        self.device.launch(calls.KernelCall("philox_words", grid, (*arguments, *sizes)), self._stream)
        return self.get(out)

    def initial(self, seed: int, samples: list[int], draw: int, size: int, guided: bool) -> dict[str, NDArray[Any]]:
        """`initial_latent`: state, sample, timestep, failed."""
        loop = self._loop(seed, samples, size, guided)
        self.device.launch(calls.initial_latent_call(loop.memory, draw, 999.0), self._stream)
        return loop.results(self)

    def ddim(
        self,
        state: NDArray[np.float32],
        prediction: NDArray[np.float32],
        guidance: float | None,
        coefficients: DdimCoefficients,
        *,
        seed: int,
        samples: list[int],
        draw: int,
    ) -> dict[str, NDArray[Any]]:
        """`ddim_step` of state (N, size) and prediction (N or 2N, size); 2N where `guidance` is given."""
        loop = self._loop(seed, samples, state.shape[1], guidance is not None, state, prediction)
        call = calls.ddim_step_call(loop.memory, draw, 500.0, guidance or 0.0, coefficients)
        self.device.launch(call, self._stream)
        return loop.results(self)

    def dpmpp(
        self,
        state: NDArray[np.float32],
        prediction: NDArray[np.float32],
        guidance: float | None,
        coefficients: Dpmpp2mCoefficients,
        previous_x0: NDArray[np.float32],
    ) -> dict[str, NDArray[Any]]:
        """`dpmpp_2m_step`; arguments as `ddim`."""
        samples = list(range(state.shape[0]))
        loop = self._loop(0, samples, state.shape[1], guidance is not None, state, prediction, previous_x0)
        self.device.launch(calls.dpmpp_2m_step_call(loop.memory, 500.0, guidance or 0.0, coefficients), self._stream)
        return loop.results(self)

    def assemble(
        self, image: NDArray[np.float32], logits: NDArray[np.float32], depth: int, threshold: float
    ) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.uint32]]:
        """`assemble`: images, labels, failure flags; arguments as `kernels.assemble.assemble`."""
        slices, modalities, x, y = image.shape
        shape, volumes = VolumeShape(modalities, logits.shape[1], (x, y, depth)), slices // depth
        images = self.poisoned((volumes, modalities, x, y, depth), "int16")
        labels = self.poisoned((volumes, x, y, depth), "uint8")
        failed = self.put(np.zeros(volumes, np.uint32), "uint32")
        source = self.put(to_storage(image, self.storage), self.storage)
        scores = self.put(to_storage(logits, self.storage), self.storage)
        call = calls.assemble_call(
            self.storage,
            shape,
            volumes,
            threshold,
            image=source.address,
            logits=scores.address,
            images=images.address,
            labels=labels.address,
            failed=failed.address,
        )
        self.device.launch(call, self._stream)
        return self.get(images), self.get(labels), self.get(failed)

    def one_hot(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """`one_hot`."""
        out = self.poisoned(logits.shape, self.storage)
        scores = self.put(to_storage(logits, self.storage), self.storage)
        shape = VolumeShape(0, logits.shape[1], (*logits.shape[2:], 1))
        call = calls.one_hot_call(self.storage, shape, logits.shape[0], logits=scores.address, labels=out.address)
        self.device.launch(call, self._stream)
        return from_storage(self.get(out), self.storage)

    def clip(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """`clip_image`."""
        values = self.put(to_storage(image, self.storage), self.storage)
        self.device.launch(calls.clip_image_call(self.storage, image.size, image=values.address), self._stream)
        return from_storage(self.get(values), self.storage)

    def measure(self, images: NDArray[np.int16], labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        """`measure`, arguments as `kernels.measure.measure`."""
        samples, modalities, x, y, z = images.shape
        shape = VolumeShape(modalities, 4, (x, y, z))
        partial = self.poisoned((samples, calls.measure_blocks_count(shape), len(COLUMNS)), "int64")
        rows = self.poisoned((samples, len(COLUMNS)), "int64")
        source, classes = self.put(images, "int16"), self.put(labels, "uint8")
        for call in calls.measure_calls(
            shape,
            samples,
            images=source.address,
            labels=classes.address,
            partial=partial.address,
            rows=rows.address,
        ):
            self.device.launch(call, self._stream)
        return self.get(rows)

    def _loop(
        self,
        seed: int,
        samples: list[int],
        size: int,
        guided: bool,
        state: NDArray[np.float32] | None = None,
        prediction: NDArray[np.float32] | None = None,
        previous_x0: NDArray[np.float32] | None = None,
    ) -> _LoopBuffers:
        count, rows = len(samples), len(samples) * (2 if guided else 1)
        buffers = {
            "state": self.poisoned((count, size), "f32") if state is None else self.put(state, "f32"),
            "previous_x0": self.poisoned((count, size), "f32") if previous_x0 is None else self.put(previous_x0, "f32"),
            "prediction": self.poisoned((rows, size), self.storage)
            if prediction is None
            else self.put(to_storage(prediction, self.storage), self.storage),
            "sample": self.poisoned((rows, size), self.storage),
            "timestep": self.poisoned((rows,), "f32"),
            "failed": self.poisoned((count,), "uint32")
            if state is None
            else self.put(np.zeros(count, np.uint32), "uint32"),
            "seed": self.put(split_words(seed), "uint32"),
            "slots": self.put(calls.slot_rows(np.array(samples, np.uint64)), "uint32"),
        }
        memory = LoopMemory(
            self.storage, count, size, guided, **{name: buffer.address for name, buffer in buffers.items()}
        )
        return _LoopBuffers(memory, buffers)


class _LoopBuffers:
    """The loop's arrays of one call and how to read the outputs."""

    def __init__(self, memory: LoopMemory, buffers: dict[str, Buffer]) -> None:
        self.memory = memory
        self._buffers = buffers

    def results(self, arrays: KernelArrays) -> dict[str, NDArray[Any]]:
        names = ("state", "sample", "timestep", "failed", "previous_x0")
        return {name: arrays.get(self._buffers[name]) for name in names}
