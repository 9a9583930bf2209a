"""The sampling loop as one graph launch: initial latent, then denoiser and step kernel by turns.

The loop is captured once for a plan and replayed for each batch; what changes from batch to batch (seed, sample
numbers, conditions) lies in device memory. Without graphs the same launches are queued one by one and give the same
bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.calls import KernelCall, LoopMemory, ddim_step_call, dpmpp_2m_step_call, initial_latent_call, slot_rows
from ...kernels.noise import DRAWS_PER_ATTEMPT, split_words
from ..sampling.batch import Batch
from ..sampling.plan import SamplingPlan
from .device import Device, DeviceNetwork

MAX_GRAPHS = 8
"""Plans that a loop keeps the graphs of; the oldest goes."""


@dataclass(frozen=True)
class LoopShape:
    """What a loop's memory is allocated for."""

    samples: int  # batch slots
    latent: tuple[int, ...]  # what the denoiser denoises, without the batch axis
    told: Mapping[str, tuple[int, ...]]  # its inputs that say what is sampled, the same at every step, likewise
    guided: bool

    @property
    def rows(self) -> int:
        """Rows of the denoiser's batch."""
        return 2 * self.samples if self.guided else self.samples


@dataclass(frozen=True)
class LoopBatch:
    """One batch of N samples."""

    seed: int
    samples: NDArray[np.uint64]  # (N,)
    attempts: NDArray[np.integer]  # (N,)
    told: Mapping[str, NDArray[np.float32]]  # (N, ...) by input of the denoiser
    condition_mask: NDArray[np.float32]  # (N,): 0 in slots that are padding, else 1


def blank_batch(shape: LoopShape) -> LoopBatch:
    """A batch that is told zeros, to try a loop with."""
    n = shape.samples
    told = {name: np.zeros((n, *tail), np.float32) for name, tail in shape.told.items()}
    return LoopBatch(0, np.arange(n, dtype=np.uint64), np.zeros(n, np.int64), told, np.ones(n, np.float32))


def loop_batch(batch: Batch, told: Mapping[str, NDArray[np.float32]]) -> LoopBatch:
    """The requests of a batch in their slots; the other slots are padding."""
    samples, attempts = np.zeros(batch.size, np.uint64), np.zeros(batch.size, np.int64)
    for request in batch.requests:
        slot = batch.slot(request)
        samples[slot], attempts[slot] = request.number, request.attempt
    return LoopBatch(batch.seed, samples, attempts, told, batch.filled((), lambda _: np.ones((), np.float32)))


class SamplingLoop:
    """The loop's memory on a device, allocated once, and its graphs. DeviceMemoryError where there is no room.

    After `sample`, `latent` holds the batch's latents and `failed` (N,) uint32 is 1
    where a state was not finite.
    """

    def __init__(self, device: Device, denoiser: DeviceNetwork, shape: LoopShape, use_graphs: bool) -> None:
        self.shape = shape
        self.use_graphs = use_graphs
        self._device = device
        self._denoiser = denoiser
        self._graphs: dict[tuple[SamplingPlan, int], Any] = {}
        n, size = shape.samples, prod(shape.latent)
        self._sample = device.allocate((shape.rows, *shape.latent), "float32")
        self._prediction = device.allocate((shape.rows, *shape.latent), "float32")
        self._timestep = device.allocate((shape.rows,), "float32")
        self._told = {name: device.allocate((shape.rows, *tail), "float32") for name, tail in shape.told.items()}
        self._mask = device.allocate((shape.rows,), "float32")
        self._state = device.allocate((n, size), "float32")
        self._previous_x0 = device.allocate((n, size), "float32")
        self._seed = device.allocate((2,), "uint32")
        self._slots = device.allocate((n, 4), "uint32")
        self.failed = device.allocate((n,), "uint32")
        self.latent = self._sample.rows(0, n)
        small = {"seed": self._seed, "slots": self._slots, "condition_mask": self._mask}
        self._host = {name: device.pinned(buffer.shape, buffer.dtype) for name, buffer in small.items()}
        self._host |= {name: device.pinned((n, *tail), "float32") for name, tail in shape.told.items()}
        self._memory = LoopMemory(
            samples=n,
            size=size,
            guided=shape.guided,
            state=self._state.address,
            previous_x0=self._previous_x0.address,
            prediction=self._prediction.address,
            sample=self._sample.address,
            timestep=self._timestep.address,
            failed=self.failed.address,
            seed=self._seed.address,
            slots=self._slots.address,
        )

    @property
    def graph_count(self) -> int:
        """Graphs captured so far."""
        return len(self._graphs)

    def sample(self, batch: LoopBatch, plan: SamplingPlan, stream: Any, base_draw: int = 0) -> None:
        """Queues the whole loop for a batch. The batch before must have been collected.

        The initial noise is draw `base_draw`, that of step k `base_draw` + k. ValueError where batch or plan do not fit
        the loop's shape; GraphError where the device captures no graph of it.
        """
        self._check(batch, plan)
        self._fill(batch)
        self._upload(stream)
        if not self.use_graphs:
            self._queue(plan, base_draw, stream)
            return
        key = (plan, base_draw)
        if key not in self._graphs:
            self._queue(plan, base_draw, stream)  # networks allocate and choose algorithms in a first run
            self._device.synchronize(self._device.record(stream))
            graph = self._device.capture(stream, lambda: self._queue(plan, base_draw, stream))
            if len(self._graphs) == MAX_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[key] = graph
        self._device.replay(self._graphs[key], stream)

    def _fill(self, batch: LoopBatch) -> None:
        n = self.shape.samples
        self._host["seed"][:] = split_words(batch.seed)
        self._host["slots"][:] = slot_rows(batch.samples, (batch.attempts * DRAWS_PER_ATTEMPT).astype(np.uint32))
        self._host["condition_mask"][:n] = batch.condition_mask
        self._host["condition_mask"][n:] = 0.0  # the unconditional half, if there is one
        for name in self._told:
            self._host[name][:] = batch.told[name]

    def _upload(self, stream: Any) -> None:
        n = self.shape.samples
        for name, buffer in (("seed", self._seed), ("slots", self._slots), ("condition_mask", self._mask)):
            self._device.upload(buffer, self._host[name], stream)
        for name, buffer in self._told.items():
            for first in range(0, self.shape.rows, n):
                self._device.upload(buffer.rows(first, first + n), self._host[name], stream)

    def _queue(self, plan: SamplingPlan, base_draw: int, stream: Any) -> None:
        self._device.launch(initial_latent_call(self._memory, base_draw, plan.timesteps[0]), stream)
        inputs = {"sample": self._sample, "timestep": self._timestep, **self._told, "condition_mask": self._mask}
        for step in range(len(plan.timesteps)):
            self._denoiser.enqueue(inputs, {"prediction": self._prediction}, stream)
            self._device.launch(self._step_call(plan, step, base_draw), stream)

    def _step_call(self, plan: SamplingPlan, step: int, base_draw: int) -> KernelCall:
        """The kernel of a step, which also sets the timestep of the denoiser call after it."""
        following = plan.timesteps[step + 1] if step + 1 < len(plan.timesteps) else 0.0
        coefficients = plan.coefficients[step]
        if plan.keeps_x0:
            return dpmpp_2m_step_call(self._memory, following, plan.guidance, coefficients)
        return ddim_step_call(self._memory, base_draw + plan.draw(step), following, plan.guidance, coefficients)

    def _check(self, batch: LoopBatch, plan: SamplingPlan) -> None:
        if (plan.guidance is not None) != self.shape.guided:
            raise ValueError(f"guidance {plan.guidance} does not fit a loop with guided={self.shape.guided}")
        n = self.shape.samples
        wanted = {name: (n, *tail) for name, tail in self.shape.told.items()}
        given = {name: values.shape for name, values in batch.told.items()}
        if given != wanted or batch.samples.shape != (n,):
            raise ValueError(f"the loop takes {n} samples told {wanted}, not {len(batch.samples)} told {given}")
