"""The samples of one batch: their slots, their noise, their way through the steps of a denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...kernels.noise import DRAWS_PER_ATTEMPT, standard_normal, standard_normal_where
from .plan import SamplingPlan
from .samplers import SAMPLERS, Latent
from .types import OnStep, RunComponent, SampleRequest


@dataclass(frozen=True)
class Batch:
    """Up to `size` requests whose slots differ; slots that no request uses are padding."""

    requests: Sequence[SampleRequest]
    size: int
    seed: int

    def slot(self, request: SampleRequest) -> int:
        """Where a request sits in the batch, whatever else is asked for."""
        return request.number % self.size

    def filled(self, shape: Sequence[int], rows: Callable[[SampleRequest], NDArray[np.float32]]) -> NDArray[np.float32]:
        """(size, *shape) of each request's row; zeros in unused slots."""
        values = np.zeros((self.size, *shape), np.float32)
        for request in self.requests:
            values[self.slot(request)] = rows(request)
        return values

    def noise(self, shape: Sequence[int], draw: int) -> NDArray[np.float32]:
        """Standard normals (size, *shape) of a draw index."""
        return self.filled(shape, lambda request: self.normals(request, draw, prod(shape)).reshape(shape))

    def normals(self, request: SampleRequest, draw: int, size: int) -> NDArray[np.float32]:
        """Standard normals (size,) of a draw index of one request."""
        return standard_normal(*self._draw_of(request, draw), size)

    def normals_where(self, request: SampleRequest, draw: int, wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
        """`normals`, as many as `wanted` has, where it is true; elsewhere they may be 0."""
        return standard_normal_where(*self._draw_of(request, draw), wanted)

    def _draw_of(self, request: SampleRequest, draw: int) -> tuple[int, int, int]:
        """Seed, sample and draw of a draw index of one request."""
        return self.seed, request.number, draw + DRAWS_PER_ATTEMPT * request.attempt

    def sampled(
        self,
        run: RunComponent,
        component: str,
        shape: Sequence[int],
        told: Mapping[str, NDArray[np.float32]],
        plan: SamplingPlan,
        on_step: OnStep | None = None,
        *,
        base_draw: int = 0,
    ) -> Latent:
        """Clean states (size, *shape) of noise of draw `base_draw`: `run` takes the steps by itself where it can.

        Arguments as of `denoised`.
        """
        if isinstance(run, TakesSteps):
            return run.take_steps(component, self, told, plan, base_draw)
        return self.denoised(run, component, self.noise(shape, base_draw), told, plan, on_step, base_draw=base_draw)

    def denoised(
        self,
        run: RunComponent,
        component: str,
        state: Latent,
        told: Mapping[str, NDArray[np.float32]],
        plan: SamplingPlan,
        on_step: OnStep | None = None,
        *,
        base_draw: int = 0,
    ) -> Latent:
        """Clean states (size, ...) of states noised to where the plan starts.

        Args:
            run: computes the denoiser.
            component: its name.
            state: (size, ...).
            told: what it is told of the samples at every step, beside the state, the time and `condition_mask`.
            plan: the steps.
            on_step: called after each of them.
            base_draw: of the stage; step k adds noise of draw base_draw + k.
        """
        on, off = np.ones(self.size, np.float32), np.zeros(self.size, np.float32)

        def predict(state: Latent, timestep: float) -> tuple[Latent, Latent | None]:
            feeds = {"sample": state, "timestep": np.full(self.size, timestep, np.float32), **told}
            conditional = run(component, {**feeds, "condition_mask": on})["prediction"]
            unconditional = None
            if plan.guidance is not None:
                unconditional = run(component, {**feeds, "condition_mask": off})["prediction"]
            if on_step is not None:
                on_step()
            return conditional, unconditional

        return SAMPLERS[plan.sampler](predict, state, plan, lambda draw: self.noise(state.shape[1:], base_draw + draw))


@runtime_checkable
class TakesSteps(Protocol):
    """A `RunComponent` that has the sampling loop of a denoiser where it runs it."""

    def take_steps(
        self,
        component: str,
        batch: Batch,
        told: Mapping[str, NDArray[np.float32]],
        plan: SamplingPlan,
        base_draw: int,
    ) -> Latent:
        """`Batch.sampled`, its noise drawn where it runs."""
        ...
