"""What fitted steps of a manifest have to be, and which of them a sampling takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from .manifest import FittedSteps, SamplingDefaults


def fitted_numbers(fitted: Sequence[FittedSteps]) -> tuple[int, ...]:
    """The numbers of steps that there are."""
    return tuple(sorted(len(steps.timesteps) for steps in fitted))


def sampling_faults(
    name: str, sampling: SamplingDefaults, owner: str, fitted: Sequence[FittedSteps], times: int
) -> Iterator[str]:
    """What is wrong with a default sampling and the fitted steps beside it, a line each.

    Args:
        name: of the sampling in the manifest.
        sampling: it.
        owner: of the fitted steps in the manifest.
        fitted: they.
        times: of the schedule's table.
    """
    if not 1 <= sampling.steps <= max(times, 1):
        yield f"{name}.steps {sampling.steps}: allowed 1..{times}"
    numbers = fitted_numbers(fitted)
    if len(set(numbers)) < len(numbers):
        yield f"{owner}.fitted: two have the same number of steps"
    for steps in fitted:
        visited = steps.timesteps
        falling = all(a > b for a, b in pairwise((times, *visited, -1)))
        if not (visited and falling):
            yield f"{owner}.fitted: timesteps {visited} must fall, within {times - 1} and 0"
        if len(steps.rows) != len(visited) or (steps.rows and steps.rows[0][2] != 0):
            yield f"{owner}.fitted: needs a row a timestep, the first without an x0 before it"
    if sampling.sampler == "fitted" and sampling.steps not in numbers:
        yield f"{name}.steps {sampling.steps}: {owner}.fitted has none of that number"
