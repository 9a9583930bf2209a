"""The steps of a sampler as data: the one place where coefficients are computed.

Every loop (host, CUDA, the export's gate, the previews of training, the benchmark's peers) follows a plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...kernels.ddim import ddim_coefficients
from ...kernels.dpmpp import dpmpp_2m_coefficients
from ...kernels.step import StepCoefficients, x0_coefficients
from ..bundle.fitted import fitted_numbers
from ..bundle.manifest import NoiseSchedule, PredictionType, SamplerName
from ..errors import UsageError
from .schedule import SMALLEST_SIGNAL, NoiseLevel, noise_level, noise_levels
from .types import SamplingOptions, check_options


@dataclass(frozen=True)
class SamplingPlan:
    """The steps of a sampler; with the shape of the loop it is the key of a captured graph."""

    sampler: SamplerName
    timesteps: tuple[float, ...]  # of each denoiser call
    coefficients: tuple[StepCoefficients, ...]  # of the step after each call
    guidance: float | None = None  # None: no second, unconditional call
    start: tuple[float, float] = (0.0, 1.0)  # (alpha, sigma) of the state that the first call sees
    first: int = 0  # steps of the whole plan that this one leaves out

    def __post_init__(self) -> None:
        if not self.timesteps or len(self.timesteps) != len(self.coefficients):
            raise ValueError("a plan needs one timestep and one row of coefficients a step")

    @property
    def keeps_x0(self) -> bool:
        """Whether a step sees the x0 of the one before; such steps add no noise."""
        return self.sampler != "ddim"

    def draw(self, step: int) -> int:
        """The draw of the noise that a step (from 0) adds; draw 0 is the initial latent."""
        return self.first + step + 1


def sampling_plan(schedule: NoiseSchedule, options: SamplingOptions, first: int = 0) -> SamplingPlan:
    """The plan of these options, from step `first` (0 for all of them) on.

    Raises:
        UsageError: steps outside of the table or not among the fitted, or options that exclude each other.
        ValueError: no step is left.
    """
    check_options(options)
    if options.sampler == "fitted":
        return _fitted_plan(schedule, options.steps, first)
    levels = noise_levels(schedule, options.steps)[first:]
    rows = (
        _dpmpp_2m_rows(schedule.prediction_type, levels)
        if options.sampler == "dpmpp-2m"
        else _ddim_rows(schedule.prediction_type, levels, options.eta)
    )
    return SamplingPlan(
        options.sampler,
        tuple(float(level.timestep) for level in levels if level.timestep is not None),
        rows,
        None if options.guidance == 1.0 else options.guidance,
        (levels[0].alpha, levels[0].sigma),
        first,
    )


def _fitted_plan(schedule: NoiseSchedule, steps: int, first: int) -> SamplingPlan:
    """That of the fitted steps of this number."""
    numbers = fitted_numbers(schedule.fitted)
    if steps not in numbers:
        have = f"has fitted steps for --steps {', '.join(map(str, numbers))}" if numbers else "has no fitted steps"
        raise UsageError(f"--sampler fitted, --steps {steps}: this bundle {have}; --sampler ddim takes any number")
    if first:
        raise ValueError("fitted steps start from noise")
    fitted = next(found for found in schedule.fitted if len(found.timesteps) == steps)
    levels = [noise_level(schedule, timestep) for timestep in fitted.timesteps]
    rows = tuple(
        StepCoefficients(*x0_coefficients(schedule.prediction_type, level.alpha, level.sigma), x, x0, 0.0, before)
        for level, (x, x0, before) in zip(levels, fitted.rows, strict=True)
    )
    return SamplingPlan("fitted", tuple(map(float, fitted.timesteps)), rows, start=(levels[0].alpha, levels[0].sigma))


def _ddim_rows(kind: PredictionType, levels: Sequence[NoiseLevel], eta: float) -> tuple[StepCoefficients, ...]:
    return tuple(
        ddim_coefficients(kind, now.alpha, now.sigma, then.alpha, then.sigma, eta) for now, then in pairwise(levels)
    )


def _dpmpp_2m_rows(kind: PredictionType, levels: Sequence[NoiseLevel]) -> tuple[StepCoefficients, ...]:
    """First and last step are of first order, and so is one whose past lies at the same noise level.

    Levels with less signal than a logarithm bears share one level, which a step between them leaves as it is.
    """
    rows: list[StepCoefficients] = []
    before: tuple[float, float] | None = None
    for now, then in pairwise(levels):
        here = now.log_safe
        history = before if then.sigma > 0.0 and before != here else None
        there = then.log_safe if then.alpha**2 < SMALLEST_SIGNAL else (then.alpha, then.sigma)
        rows.append(dpmpp_2m_coefficients(kind, history, here, there))
        before = here
    return tuple(rows)
