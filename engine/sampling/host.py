"""A batch of requests into volumes: noise, sampler, aggregator, decoder, refiner, assembly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from ...kernels.assemble import assemble, one_hot
from ...kernels.noise import DRAWS_PER_ATTEMPT, standard_normal
from ..bundle.load import Bundle
from .decoding import DECODER_SLICES, NOT_FINITE, image_fault
from .samplers import sample_ddim, sample_dpmpp_2m
from .schedule import sampling_points
from .small_components import drop_small_components
from .types import Backend, LoopKind, SampleRequest, SamplingOptions, Volume, check_options


class VolumeSampler:
    """Makes volumes in batches of one fixed shape; sample k always sits in slot k % batch_size.

    Raises:
        UsageError: options that the bundle's schedule or the sampler cannot follow.
    """

    in_flight = 1
    loop: LoopKind = "host"

    def __init__(self, bundle: Bundle, backend: Backend, options: SamplingOptions) -> None:
        check_options(options)
        self.reason = f"{backend.name} on {backend.device}, one network after the other"
        self.bundle, self.backend, self.options = bundle, backend, options
        self.points = sampling_points(bundle.manifest.schedule, options.steps)
        self.shape = bundle.manifest.latent.shape

    def start(
        self, requests: Sequence[SampleRequest], on_step: Callable[[], None] | None = None
    ) -> Callable[[], list[Volume]]:
        """Denoise up to `batch_size` requests whose slots differ; what is returned decodes them, in their order."""
        latents = self.latents(requests, on_step)
        return lambda: self.decode(requests, latents)

    def latents(
        self, requests: Sequence[SampleRequest], on_step: Callable[[], None] | None = None
    ) -> NDArray[np.float32]:
        """Clean volume latents Z (batch_size, C, ...); slots that no request uses are padding."""
        return self.denoise(requests, self.noise(requests, 0), 0, on_step)

    def noise(self, requests: Sequence[SampleRequest], draw: int) -> NDArray[np.float32]:
        """Noise (batch_size, C, ...) of a draw index; zeros in unused slots."""
        state = np.zeros((self.options.batch_size, *self.shape), np.float32)
        for request in requests:
            index = draw + DRAWS_PER_ATTEMPT * request.attempt
            values = standard_normal(self.options.seed, request.number, index, prod(self.shape))
            state[self.slot(request)] = values.reshape(self.shape)
        return state

    def slot(self, request: SampleRequest) -> int:
        """Where a request sits in the batch, whatever else is asked for."""
        return request.number % self.options.batch_size

    def denoise(
        self,
        requests: Sequence[SampleRequest],
        state: NDArray[np.float32],
        first: int,
        on_step: Callable[[], None] | None = None,
    ) -> NDArray[np.float32]:
        """Run the sampler from step `first` on (0 for all of them) with `state` noised to that point."""
        size, options = self.options.batch_size, self.options
        condition = np.zeros((size, len(self.bundle.manifest.condition_columns)), np.float32)
        for request in requests:
            condition[self.slot(request)] = request.condition
        on, off = np.ones(size, np.float32), np.zeros(size, np.float32)

        def predict(
            state: NDArray[np.float32], timestep: int
        ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
            feeds = {"sample": state, "timestep": np.full(size, timestep, np.float32), "condition": condition}
            conditional = self.backend.run("denoiser", {**feeds, "condition_mask": on})["prediction"]
            unconditional = None
            if options.guidance != 1.0:
                unconditional = self.backend.run("denoiser", {**feeds, "condition_mask": off})["prediction"]
            if on_step is not None:
                on_step()
            return conditional, unconditional

        kind, points = self.bundle.manifest.schedule.prediction_type, self.points[first:]
        if options.sampler == "dpmpp-2m":
            return sample_dpmpp_2m(predict, state, points, kind, guidance=options.guidance)
        return sample_ddim(
            predict, state, points, kind,
            guidance=options.guidance, eta=options.eta, noise=lambda k: self.noise(requests, first + k),
        )  # fmt: skip

    def decode(self, requests: Sequence[SampleRequest], latents: NDArray[np.float32]) -> list[Volume]:
        """Volumes of the requests from clean latents (batch_size, C, ...)."""
        stacks = self.backend.run("aggregator", {"latent": latents})["slices"]
        return [self._volume(request, latents[self.slot(request)], stacks[self.slot(request)]) for request in requests]

    def decode_slices(self, slices: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Slice latents (D, c, h, w) of one volume -> refined image (D, M, X, Y) and label logits (D, L, X, Y)."""
        depth = len(slices)
        images, logits = [], []
        for start in range(0, depth, DECODER_SLICES):
            stop = min(start + DECODER_SLICES, depth)
            position = np.arange(start, stop, dtype=np.int64)
            decoded = self.backend.run("decoder", {"latent": slices[start:stop], "position": position})
            images.append(decoded["image"])
            logits.append(decoded["label_logits"])
        image, label_logits = np.concatenate(images), np.concatenate(logits)
        if self.bundle.has("refiner"):
            coarse = np.clip(image, -1.0, 1.0)[None]
            image = self.backend.run("refiner", {"image": coarse, "label": one_hot(label_logits)[None]})["refined"][0]
        return image, label_logits

    def _volume(self, request: SampleRequest, latent: NDArray[np.float32], slices: NDArray[np.float32]) -> Volume:
        image, label_logits = self.decode_slices(slices)
        fault = None
        if not (np.isfinite(latent).all() and np.isfinite(image).all() and np.isfinite(label_logits).all()):
            fault = NOT_FINITE
        images, labels = assemble(image, label_logits, len(slices), self.bundle.manifest.background_threshold)
        label = drop_small_components(labels[0])
        return Volume(request.number, request.attempt, images[0], label, fault or image_fault(images[0]))
