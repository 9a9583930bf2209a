"""Kernels called with host arrays: upload, launch, download. For checking kernels against their NumPy references."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engine.cuda.device import Buffer, Device
from ..kernels import calls
from ..kernels.calls import LoopMemory, VolumeShape
from ..kernels.noise import split_words
from ..kernels.statistics import COLUMNS
from ..kernels.step import StepCoefficients


class KernelArrays:
    """Runs single kernels on a device; every output is poisoned (all bits set: NaN, -1) first."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._stream = device.stream()

    def put(self, values: NDArray[Any], dtype: str) -> Buffer:
        """A buffer with these values."""
        buffer = self.device.allocate(values.shape, dtype)
        self.device.upload(buffer, np.ascontiguousarray(values), self._stream)
        return buffer

    def poisoned(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """A buffer with all bits set."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.put(np.full(size, 0xFF, np.uint8).view(dtype).reshape(shape), dtype)

    def get(self, buffer: Buffer) -> NDArray[Any]:
        """The values of a buffer, when all work is done."""
        values = np.empty(buffer.shape, buffer.dtype)
        self.device.download(buffer, values, self._stream)
        self.device.synchronize(self.device.record(self._stream))
        return values

    def words(self, seed: int, samples: list[int], draw: int, blocks: int) -> NDArray[np.uint32]:
        """Philox words (samples, blocks, 4)."""
        out = self.poisoned((len(samples), blocks, 4), "uint32")
        slots = self.put(calls.slot_rows(np.array(samples, np.uint64)), "uint32")
        seeds = self.put(split_words(seed), "uint32")
        call = calls.philox_words_call(
            blocks, len(samples), draw, words=out.address, seed=seeds.address, slots=slots.address
        )
        self.device.launch(call, self._stream)
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
        coefficients: StepCoefficients,
        *,
        seed: int,
        samples: list[int],
        draw: int,
    ) -> dict[str, NDArray[Any]]:
        """`ddim_step` of state (N, size) and prediction (N or 2N, size); 2N where `guidance` is given."""
        loop = self._loop(seed, samples, state.shape[1], guidance is not None, state, prediction)
        call = calls.ddim_step_call(loop.memory, draw, 500.0, guidance, coefficients)
        self.device.launch(call, self._stream)
        return loop.results(self)

    def dpmpp(
        self,
        state: NDArray[np.float32],
        prediction: NDArray[np.float32],
        guidance: float | None,
        coefficients: StepCoefficients,
        previous_x0: NDArray[np.float32],
    ) -> dict[str, NDArray[Any]]:
        """`dpmpp_2m_step`; arguments as `ddim`."""
        samples = list(range(state.shape[0]))
        loop = self._loop(0, samples, state.shape[1], guidance is not None, state, prediction, previous_x0)
        self.device.launch(calls.dpmpp_2m_step_call(loop.memory, 500.0, guidance, coefficients), self._stream)
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
        source = self.put(image, "float32")
        scores = self.put(logits, "float32")
        call = calls.assemble_call(
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
        out = self.poisoned(logits.shape, "float32")
        scores = self.put(logits, "float32")
        shape = VolumeShape(0, logits.shape[1], (*logits.shape[2:], 1))
        call = calls.one_hot_call(shape, logits.shape[0], logits=scores.address, labels=out.address)
        self.device.launch(call, self._stream)
        return self.get(out)

    def clip(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """`clip_image`."""
        values = self.put(image, "float32")
        self.device.launch(calls.clip_image_call(image.size, image=values.address), self._stream)
        return self.get(values)

    def statistics(self, images: NDArray[np.int16]) -> NDArray[np.int32]:
        """`image_statistics` (N, M, 4) of images (N, M, X, Y, Z)."""
        samples, modalities, *shape = images.shape
        voxels, count = int(np.prod(shape)), samples * modalities
        partial = self.poisoned((count, calls.statistics_blocks_count(voxels), len(COLUMNS)), "int32")
        rows = self.poisoned((samples, modalities, len(COLUMNS)), "int32")
        values = self.put(images, "int16")
        for call in calls.statistics_calls(
            voxels, count, values=values.address, partial=partial.address, rows=rows.address
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
            "state": self.poisoned((count, size), "float32") if state is None else self.put(state, "float32"),
            "previous_x0": self.poisoned((count, size), "float32")
            if previous_x0 is None
            else self.put(previous_x0, "float32"),
            "prediction": self.poisoned((rows, size), "float32")
            if prediction is None
            else self.put(prediction, "float32"),
            "sample": self.poisoned((rows, size), "float32"),
            "timestep": self.poisoned((rows,), "float32"),
            "failed": self.poisoned((count,), "uint32")
            if state is None
            else self.put(np.zeros(count, np.uint32), "uint32"),
            "seed": self.put(split_words(seed), "uint32"),
            "slots": self.put(calls.slot_rows(np.array(samples, np.uint64)), "uint32"),
        }
        memory = LoopMemory(count, size, guided, **{name: buffer.address for name, buffer in buffers.items()})
        return _LoopBuffers(memory, buffers)


class _LoopBuffers:
    """The loop's arrays of one call and how to read the outputs."""

    def __init__(self, memory: LoopMemory, buffers: dict[str, Buffer]) -> None:
        self.memory = memory
        self._buffers = buffers

    def results(self, arrays: KernelArrays) -> dict[str, NDArray[Any]]:
        names = ("state", "sample", "timestep", "failed", "previous_x0")
        return {name: arrays.get(self._buffers[name]) for name in names}
