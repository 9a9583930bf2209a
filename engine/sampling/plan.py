"""The steps of a sampler as data."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from ...kernels.ddim import ddim_coefficients
from ...kernels.dpmpp import dpmpp_2m_coefficients
from ..bundle.manifest import NoiseSchedule
from .schedule import sampling_points

if TYPE_CHECKING:
    from .types import SamplingOptions

from dataclasses import dataclass

from ...kernels.ddim import DdimCoefficients


def sampling_plan(schedule: NoiseSchedule, options: SamplingOptions) -> SamplingPlan:
    """The steps that `samplers.py` takes with these options, as data. UsageError as in `sampling_points`."""
    points = sampling_points(schedule, options.steps)
    kind = schedule.prediction_type
    timesteps = tuple(float(point.timestep) for point in points if point.timestep is not None)
    guidance = None if options.guidance == 1.0 else options.guidance
    pairs = list(pairwise(points))
    if options.sampler == "ddim":
        return SamplingPlan(
            timesteps,
            tuple(ddim_coefficients(kind, a.alpha, a.sigma, b.alpha, b.sigma, options.eta) for a, b in pairs),
            guidance,
        )
    safe = [point.log_safe for point in points]
    coefficients = tuple(
        dpmpp_2m_coefficients(kind, safe[k - 1] if k and then.sigma > 0.0 else None, safe[k], (then.alpha, then.sigma))
        for k, (_, then) in enumerate(pairs)
    )
    return SamplingPlan(timesteps, coefficients, guidance)


@dataclass(frozen=True)
class SamplingPlan:
    """The steps of a sampler; with the shape of the loop it is the key of a captured graph.

    `Dpmpp2mCoefficients` make the sampler dpmpp-2m, `DdimCoefficients` ddim. `guidance` None: no second,
    unconditional half of the batch.
    """

    timesteps: tuple[float, ...]  # of each denoiser call
    coefficients: tuple[DdimCoefficients, ...]
    guidance: float | None = None

    def __post_init__(self) -> None:
        kinds = {type(c) for c in self.coefficients}
        if not self.timesteps or len(self.timesteps) != len(self.coefficients) or len(kinds) != 1:
            raise ValueError("a plan needs one timestep and one set of coefficients a step, of one sampler")
