"""A batch of requests into volumes, one network after the other: noise, sampler, aggregator, decoding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from ...kernels.noise import DRAWS_PER_ATTEMPT, standard_normal
from .decoding import DECODER_SLICES, assemble_volume, decode_slices
from .plan import SamplingPlan, sampling_plan
from .samplers import SAMPLERS, Latent
from .types import LoopKind, RunComponent, SampledModel, SampleRequest, SamplingOptions, Volume

OnStep = Callable[[], None]


class HostLoop:
    """Makes volumes in batches of one fixed shape; sample k always sits in slot k % batch_size.

    Args:
        model: what is sampled.
        run: computes its components.
        options: of the sampler.
        reason: on what it runs, in words for run.json.
        at_once: slices a decoder call.

    Raises:
        UsageError: options that the model's schedule or the sampler cannot follow.
    """

    in_flight = 1
    kind: LoopKind = "host"

    def __init__(
        self,
        model: SampledModel,
        run: RunComponent,
        options: SamplingOptions,
        reason: str = "",
        at_once: int = DECODER_SLICES,
    ) -> None:
        self.model, self.run, self.options, self.reason = model, run, options, reason
        self.plan = sampling_plan(model.schedule, options)
        self._at_once = at_once

    def start(self, requests: Sequence[SampleRequest], on_step: OnStep | None = None) -> Callable[[], list[Volume]]:
        """Denoise up to `batch_size` requests whose slots differ; what is returned decodes them, in their order."""
        latents = self.denoise(requests, self.noise(requests, 0), self.plan, on_step)
        return lambda: self.decode(requests, latents)

    def noise(self, requests: Sequence[SampleRequest], draw: int) -> Latent:
        """Noise (batch_size, C, ...) of a draw index; zeros in unused slots."""
        shape = self.model.latent_shape
        state = np.zeros((self.options.batch_size, *shape), np.float32)
        for request in requests:
            index = draw + DRAWS_PER_ATTEMPT * request.attempt
            values = standard_normal(self.options.seed, request.number, index, prod(shape))
            state[self.slot(request)] = values.reshape(shape)
        return state

    def slot(self, request: SampleRequest) -> int:
        """Where a request sits in the batch, whatever else is asked for."""
        return request.number % self.options.batch_size

    def denoise(
        self, requests: Sequence[SampleRequest], state: Latent, plan: SamplingPlan, on_step: OnStep | None = None
    ) -> Latent:
        """Clean volume latents Z (batch_size, C, ...) of a state noised to where the plan starts.

        Slots that no request uses are padding.
        """
        size = self.options.batch_size
        told = self._told(requests)
        on, off = np.ones(size, np.float32), np.zeros(size, np.float32)

        def predict(state: Latent, timestep: float) -> tuple[Latent, Latent | None]:
            feeds = {"sample": state, "timestep": np.full(size, timestep, np.float32), **told}
            conditional = self.run("denoiser", {**feeds, "condition_mask": on})["prediction"]
            unconditional = None
            if plan.guidance is not None:
                unconditional = self.run("denoiser", {**feeds, "condition_mask": off})["prediction"]
            if on_step is not None:
                on_step()
            return conditional, unconditional

        return SAMPLERS[plan.sampler](predict, state, plan, lambda draw: self.noise(requests, draw))

    def _told(self, requests: Sequence[SampleRequest]) -> dict[str, NDArray[np.float32]]:
        """What the denoiser is told of the samples, the same at every step."""
        condition = np.zeros((self.options.batch_size, self.model.condition_columns), np.float32)
        for request in requests:
            condition[self.slot(request)] = request.condition
        return {"condition": condition}

    def decode(self, requests: Sequence[SampleRequest], latents: Latent) -> list[Volume]:
        """Volumes of the requests from clean latents (batch_size, C, ...)."""
        stacks = self.run("aggregator", {"latent": latents})["slices"]
        volumes = []
        for request in requests:
            slot = self.slot(request)
            decoded = decode_slices(self.run, stacks[slot], refined=self.model.refined, at_once=self._at_once)
            finite = bool(np.isfinite(latents[slot]).all())
            volumes.append(assemble_volume(request, decoded, finite, self.model.background_threshold))
        return volumes
