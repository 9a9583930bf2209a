"""From the options of a run to a backend and a sampler; the batch size that suits a device."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from .augment import AugmentSampler, SourceCase
from .backends import Backend, choose_backend
from .bundle import Bundle
from .errors import UsageError
from .loop import SampleRequest, SamplingOptions, VolumeSampler
from .plan import MAX_BATCH, RunDescription, RunOptions

_TRIAL_STEPS = 4
_WORTH_IT = 0.95  # a larger batch is kept if a volume takes less than this part of the time


def sampling_options(options: RunOptions, batch_size: int) -> SamplingOptions:
    """The sampler's share of a run's options."""
    return SamplingOptions(options.steps, options.sampler, options.eta, options.guidance, options.seed, batch_size)


def make_sampler(
    bundle: Bundle, run: RunDescription, device: str, source: SourceCase | None = None
) -> VolumeSampler | AugmentSampler:
    """The sampler of a recorded run; `device` may name one of several devices of its kind, such as cuda:1.

    `source` is the case that `augment` starts from.

    Raises:
        BackendUnavailableError: the run's backend cannot run here.
        UsageError: it is here in another version, whose bytes may differ.
    """
    resolved = run.resolved
    chosen = device if device.partition(":")[0] == resolved.device else resolved.device
    backend = choose_backend(bundle, resolved.backend, chosen, resolved.precision, resolved.threads)
    if backend.version != run.versions[backend.name]:
        raise UsageError(
            f"the run was started with {backend.name} {run.versions[backend.name]}, here is {backend.version}: "
            "install that version to go on, or start a new run"
        )
    return sampler_on(bundle, backend, run.options, resolved.batch_size, source)


def sampler_on(
    bundle: Bundle, backend: Backend, options: RunOptions, batch_size: int, source: SourceCase | None = None
) -> VolumeSampler | AugmentSampler:
    """A sampler on a backend that is at hand."""
    sampler = VolumeSampler(bundle, backend, sampling_options(options, batch_size))
    return sampler if source is None else AugmentSampler(sampler, source)


def measured_batch_size(bundle: Bundle, backend: Backend, options: RunOptions) -> int:
    """The batch size with the shortest time a volume: doubled from 1 until it stops paying or memory runs out."""
    short = replace(options, steps=min(options.steps, _TRIAL_STEPS))
    best, best_seconds, size = 1, float("inf"), 1
    while size <= MAX_BATCH:
        try:
            seconds = _seconds_a_volume(VolumeSampler(bundle, backend, sampling_options(short, size)))
        except MemoryError:
            break
        if seconds > _WORTH_IT * best_seconds:
            break
        best, best_seconds, size = size, seconds, 2 * size
    return best


def _seconds_a_volume(sampler: VolumeSampler) -> float:
    size, columns = sampler.options.batch_size, len(sampler.bundle.manifest.condition_columns)
    requests = [SampleRequest(number, 0, np.zeros(columns, np.float32)) for number in range(size)]
    sampler.sample(requests)
    start = time.perf_counter()
    sampler.sample(requests)
    return (time.perf_counter() - start) / size
