"""The sampling loop as one graph launch: initial latent, then denoiser and step kernel by turns.

The loop is captured once for a plan and replayed for each batch; what changes from batch to batch (seed, sample
numbers, conditions) lies in device memory. Without graphs the same launches are queued one by one and give the same
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.calls import KernelCall, LoopMemory, ddim_step_call, dpmpp_2m_step_call, initial_latent_call, slot_rows
from ...kernels.noise import DRAWS_PER_ATTEMPT, split_words
from ..sampling.plan import SamplingPlan
from .device import Buffer, Device, DeviceNetwork

MAX_GRAPHS = 8
"""Plans that a loop keeps the graphs of; the oldest goes."""


@dataclass(frozen=True)
class LoopShape:
    """What a loop's memory is allocated for."""

    samples: int  # batch slots
    latent: tuple[int, ...]  # (channel, depth, height, width) or (channel, height, width)
    condition_columns: int
    guided: bool

    @property
    def rows(self) -> int:
        """Rows of the denoiser's batch."""
        return 2 * self.samples if self.guided else self.samples


@dataclass(frozen=True)
class LoopBatch:
    """One batch: `samples` (N,) uint64, `attempts` (N,) int, `condition` (N, K) f32 normalised, mask (N,) f32."""

    seed: int
    samples: NDArray[np.uint64]
    attempts: NDArray[np.integer]
    condition: NDArray[np.float32]
    condition_mask: NDArray[np.float32]


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
        self._graphs: dict[SamplingPlan, Any] = {}
        n, size = shape.samples, prod(shape.latent)
        self._sample = device.allocate((shape.rows, *shape.latent), "float32")
        self._prediction = device.allocate((shape.rows, *shape.latent), "float32")
        self._timestep = device.allocate((shape.rows,), "float32")
        self._condition = device.allocate((shape.rows, shape.condition_columns), "float32")
        self._mask = device.allocate((shape.rows,), "float32")
        self._state = device.allocate((n, size), "float32")
        self._previous_x0 = device.allocate((n, size), "float32")
        self._seed = device.allocate((2,), "uint32")
        self._slots = device.allocate((n, 4), "uint32")
        self.failed = device.allocate((n,), "uint32")
        self.latent = self._sample.rows(0, n)
        self._host = {name: device.pinned(buffer.shape, buffer.dtype) for name, buffer in self._uploads().items()}
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

    def sample(self, batch: LoopBatch, plan: SamplingPlan, stream: Any) -> None:
        """Queues the whole loop for a batch. The batch before must have been collected.

        ValueError where batch or plan do not fit the loop's shape; GraphError where the device captures no graph of it.
        """
        self._check(batch, plan)
        self._fill(batch)
        for name, buffer in self._uploads().items():
            self._device.upload(buffer, self._host[name], stream)
        if not self.use_graphs:
            self._queue(plan, stream)
            return
        if plan not in self._graphs:
            self._queue(plan, stream)  # networks allocate and choose algorithms in a first run, which no graph may hold
            self._device.synchronize(self._device.record(stream))
            graph = self._device.capture(stream, lambda: self._queue(plan, stream))
            if len(self._graphs) == MAX_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[plan] = graph
        self._device.replay(self._graphs[plan], stream)

    def _uploads(self) -> dict[str, Buffer]:
        return {"seed": self._seed, "slots": self._slots, "condition": self._condition, "mask": self._mask}

    def _fill(self, batch: LoopBatch) -> None:
        n = self.shape.samples
        self._host["seed"][:] = split_words(batch.seed)
        self._host["slots"][:] = slot_rows(batch.samples, (batch.attempts * DRAWS_PER_ATTEMPT).astype(np.uint32))
        self._host["condition"][:n], self._host["mask"][:n] = batch.condition, batch.condition_mask
        if self.shape.guided:
            self._host["condition"][n:], self._host["mask"][n:] = batch.condition, 0.0

    def _queue(self, plan: SamplingPlan, stream: Any) -> None:
        self._device.launch(initial_latent_call(self._memory, 0, plan.timesteps[0]), stream)
        inputs = {
            "sample": self._sample,
            "timestep": self._timestep,
            "condition": self._condition,
            "condition_mask": self._mask,
        }
        for step in range(len(plan.timesteps)):
            self._denoiser.enqueue(inputs, {"prediction": self._prediction}, stream)
            self._device.launch(self._step_call(plan, step), stream)

    def _step_call(self, plan: SamplingPlan, step: int) -> KernelCall:
        """The kernel of a step, which also sets the timestep of the denoiser call after it."""
        following = plan.timesteps[step + 1] if step + 1 < len(plan.timesteps) else 0.0
        coefficients = plan.coefficients[step]
        if plan.sampler == "dpmpp-2m":
            return dpmpp_2m_step_call(self._memory, following, plan.guidance, coefficients)
        return ddim_step_call(self._memory, plan.draw(step), following, plan.guidance, coefficients)

    def _check(self, batch: LoopBatch, plan: SamplingPlan) -> None:
        if (plan.guidance is not None) != self.shape.guided:
            raise ValueError(f"guidance {plan.guidance} does not fit a loop with guided={self.shape.guided}")
        wanted = (self.shape.samples, self.shape.condition_columns)
        if batch.condition.shape != wanted or batch.samples.shape != wanted[:1]:
            raise ValueError(f"the loop takes {wanted[0]} samples with {wanted[1]} condition columns, not this batch")
