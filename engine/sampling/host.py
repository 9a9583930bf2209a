"""A batch of requests into volumes, one network after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .batch import Batch
from .model import VolumeModel
from .plan import SamplingPlan, sampling_plan
from .samplers import Latent
from .types import LoopKind, OnStep, RunComponent, SampleRequest, SamplingOptions, Told, Volume


class HostLoop:
    """Makes volumes in batches of one fixed shape; sample k always sits in slot k % batch_size.

    Args:
        model: what is sampled.
        run: computes its components.
        options: of the sampler.
        reason: on what it runs, in words for run.json.
        kind: who drives the steps, where `run` takes them by itself.

    Raises:
        UsageError: options that the model's schedule or the sampler cannot follow.
    """

    in_flight = 1

    def __init__(
        self,
        model: VolumeModel,
        run: RunComponent,
        options: SamplingOptions,
        reason: str = "",
        kind: LoopKind = "host",
    ) -> None:
        self.model, self.run, self.options, self.reason = model, run, options, reason
        self.kind: LoopKind = kind
        self.plan = sampling_plan(model.schedule, options)

    def start(self, requests: Sequence[SampleRequest], on_step: OnStep | None = None) -> Callable[[], list[Volume]]:
        """Denoise up to `batch_size` requests whose slots differ; what is returned decodes them, in their order."""
        batch = self.batch(requests)
        told, latents = self._sampled(batch, on_step)
        return lambda: self.model.decode(self.run, batch, told, latents)

    def latents(self, requests: Sequence[SampleRequest]) -> Latent:
        """The clean latents (N, ...) of the requests, in their order."""
        batch = self.batch(requests)
        _, latents = self._sampled(batch, None)
        return latents[[batch.slot(request) for request in requests]]

    def _sampled(self, batch: Batch, on_step: OnStep | None) -> tuple[Told, Latent]:
        told = self.model.tell(self.run, batch, on_step)
        shape = self.model.latent_shape
        return told, batch.sampled(self.run, "denoiser", shape, told.feeds, self.plan, on_step)

    def batch(self, requests: Sequence[SampleRequest]) -> Batch:
        """The requests in their slots."""
        return Batch(requests, self.options.batch_size, self.options.seed)

    def denoise(
        self, batch: Batch, told: Told, state: Latent, plan: SamplingPlan, on_step: OnStep | None = None
    ) -> Latent:
        """Clean volume latents Z (batch_size, C, ...) of states noised to where the plan starts."""
        return batch.denoised(self.run, "denoiser", state, told.feeds, plan, on_step)
