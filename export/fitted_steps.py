"""Few steps that end where many do, fitted to a finished model.

A step of a linear multistep solver makes the next state of three numbers: what of the state, of the x0 that the
denoiser now tells and of the x0 before goes into it. DPM-Solver++(2M) takes these numbers from a Taylor expansion,
which holds where steps are small. Here they are those with which this model, on samples of its own, comes nearest to
the states of `MANY` DDIM steps from the same noise (least squares, step after step, each on the states that the steps
before really left), and the times of the calls are searched for as well. Nothing is learned by a network: k calls have
4k - 2 numbers. After Shaul et al., "Bespoke non-stationary solvers" (ICML 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..engine.bundle.manifest import BundleManifest, FittedSteps, NoiseSchedule, SamplingDefaults
from ..engine.errors import InvalidInputError
from ..engine.sampling.batch import Batch
from ..engine.sampling.mask_first import MASK_DRAW, MaskFirstModel
from ..engine.sampling.model import model_of
from ..engine.sampling.plan import SamplingPlan, sampling_plan
from ..engine.sampling.schedule import noise_level
from ..engine.sampling.types import RunComponent, SamplingOptions
from ..kernels.ddim import ddim_step
from ..kernels.step import x0_coefficients
from .parity import sample_request

MANY = 200
"""DDIM steps whose end is wanted, where the schedule has as many."""
STEPS = (1, 2, 3, 4)
"""Of the image, or of image and mask together; the last number is the default."""
MASK_STEPS = (6,)
"""Of a mask stage."""
CASES = 6
"""Samples that are fitted to."""
SEED = 20260103
"""Of the first of them; the next ones follow."""
_GAIN = 0.999  # of the error, at which a move of a time is taken
_FINEST = 4  # of the many steps, by which a time is moved at last

States = NDArray[np.float32]  # (C, ...)
Row = tuple[float, float, float]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Way:
    """A sample's way from noise to its clean state in many steps, and what the denoiser is told of it."""

    told: Mapping[str, NDArray[np.float32]]  # by input, each (1, ...)
    states: Sequence[States]  # one before each step, and the last


class StepFit:
    """Fits few calls of one denoiser.

    Args:
        run: computes the components.
        component: the denoiser's name.
        schedule: its own.
        ways: what is fitted to.
    """

    def __init__(self, run: RunComponent, component: str, schedule: NoiseSchedule, ways: Sequence[Way]) -> None:
        self._run, self._component, self._schedule, self._ways = run, component, schedule, ways
        self._times = many_steps(schedule).timesteps
        self._many = len(self._times)
        self._first = [self._x0(0, way.states[0], way) for way in ways]

    def fit(self, steps: int) -> FittedSteps:
        """The times and rows of so many calls whose end is nearest to that of the many."""
        places = tuple(round(k * self._many / steps) for k in range(steps))
        rows, error = self.rows(places)
        width = max(self._many // (3 * steps), _FINEST)
        while width >= _FINEST:
            for moved in _moved(places, width, self._many):
                found, less = self.rows(moved)
                if less < _GAIN * error:
                    places, rows, error = moved, found, less
                    break
            else:
                width //= 2
        return FittedSteps(tuple(int(self._times[place]) for place in places), tuple(rows))

    def rows(self, places: Sequence[int]) -> tuple[list[Row], float]:
        """The best rows of calls at these of the many steps, the first at 0, and the mean square error of their end."""
        states, before = [way.states[0] for way in self._ways], [np.zeros(0, np.float32)] * len(self._ways)
        rows: list[Row] = []
        for place, end in pairwise((*places, self._many)):
            x0 = [self._x0(place, s, way) for s, way in zip(states, self._ways, strict=True)] if place else self._first
            terms = [(s, x, b)[: 3 if place else 2] for s, x, b in zip(states, x0, before, strict=True)]
            weights = least_squares(terms, [way.states[end] for way in self._ways])
            states = [_sum(weights, own) for own in terms]
            rows.append((weights[0], weights[1], weights[2] if place else 0.0))
            before = x0
        errors = [np.mean((state - way.states[-1]) ** 2) for state, way in zip(states, self._ways, strict=True)]
        return rows, float(np.mean(errors))

    def _x0(self, place: int, state: States, way: Way) -> States:
        time = int(self._times[place])
        level = noise_level(self._schedule, time)
        prediction = _predicted(self._run, self._component, state[None], time, way.told)[0]
        of_state, of_prediction = x0_coefficients(self._schedule.prediction_type, level.alpha, level.sigma)
        return np.float32(of_state) * state + np.float32(of_prediction) * prediction


def with_fitted_steps(run: RunComponent, manifest: BundleManifest, tell: Tell = lambda _: None) -> BundleManifest:
    """A manifest with fitted steps, which are its defaults from then on; `tell` hears what is being fitted.

    The masks of a mask-first model are fitted first; images then are made on masks of those steps.

    Raises:
        InvalidInputError: the model samples with guidance: every call of fitted steps would be two.
    """
    if manifest.defaults.guidance != 1:
        raise InvalidInputError(
            f"sampling.guidance is {manifest.defaults.guidance:g}: fitted steps know none; distil it into the denoiser "
            "(preset key `distillation`), or export without --fit-steps"
        )
    said = manifest.mask_first
    if said is not None:
        tell("fitting the steps of the mask denoiser")
        told = MaskFirstModel.of(manifest, said).told_maps
        fit = _fit_of(run, "mask_denoiser", manifest, said.mask_maps.shape, told, MASK_DRAW)
        fitted = tuple(fit.fit(steps) for steps in MASK_STEPS)
        said = replace(said, fitted=fitted, mask_sampling=_default(MASK_STEPS))
        manifest = replace(manifest, mask_first=said)
    tell("fitting the steps of the denoiser")
    model = model_of(manifest)
    fit = _fit_of(run, "denoiser", manifest, manifest.latent.shape, lambda batch: model.tell(run, batch, None).feeds)
    schedule = replace(manifest.schedule, fitted=tuple(fit.fit(steps) for steps in STEPS))
    return replace(manifest, schedule=schedule, defaults=_default(STEPS))


def many_steps(schedule: NoiseSchedule) -> SamplingPlan:
    """The plan of the many steps."""
    many = min(MANY, len(schedule.alphas_cumprod))
    return sampling_plan(schedule, SamplingOptions(many, "ddim", 0.0, 1.0, 0, 1))


def least_squares(terms: Sequence[Sequence[States]], wanted: Sequence[States]) -> list[float]:
    """The weights of the terms whose sum is nearest to what is wanted, over all samples together; in float64."""
    gram, right = np.zeros((len(terms[0]),) * 2), np.zeros(len(terms[0]))
    for own, target in zip(terms, wanted, strict=True):
        columns = np.stack([term.ravel() for term in own]).astype(np.float64)
        gram += columns @ columns.T
        right += columns @ target.ravel().astype(np.float64)
    return np.linalg.lstsq(gram, right, rcond=None)[0].tolist()


def _fit_of(
    run: RunComponent,
    component: str,
    manifest: BundleManifest,
    shape: Sequence[int],
    tell: Callable[[Batch], Mapping[str, NDArray[np.float32]]],
    draw: int = 0,
) -> StepFit:
    """On `CASES` samples of a bundle to be, drawn as a user's; states of `shape`, their noise of draw `draw`."""
    plan, ways = many_steps(manifest.schedule), []
    for seed in range(SEED, SEED + CASES):
        batch = Batch([sample_request(manifest, seed)], 1, seed)
        told, state = tell(batch), batch.noise(shape, draw)
        states = [state[0]]
        for time, row in zip(plan.timesteps, plan.coefficients, strict=True):
            state = ddim_step(state, _predicted(run, component, state, time, told), None, None, row)
            states.append(state[0])
        ways.append(Way(told, states))
    return StepFit(run, component, manifest.schedule, ways)


def _predicted(
    run: RunComponent, component: str, state: NDArray[np.float32], time: float, told: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    shown = {"timestep": np.full(1, time, np.float32), "condition_mask": np.ones(1, np.float32)}
    return run(component, {"sample": state, **told, **shown})["prediction"]


def _default(steps: Sequence[int]) -> SamplingDefaults:
    return SamplingDefaults("fitted", steps[-1], 0.0, 1.0)


def _moved(places: tuple[int, ...], width: int, end: int) -> Iterator[tuple[int, ...]]:
    """The places with one of them, never the first, moved either way, where they still rise towards the end."""
    for k in range(1, len(places)):
        for by in (-width, width):
            moved = (*places[:k], places[k] + by, *places[k + 1 :])
            if all(a < b for a, b in pairwise((*moved, end))):
                yield moved


def _sum(weights: Sequence[float], terms: Sequence[States]) -> States:
    total = np.float32(weights[0]) * terms[0]
    for weight, term in zip(weights[1:], terms[1:], strict=True):
        total += np.float32(weight) * term
    return total
