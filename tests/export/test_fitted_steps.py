"""Few steps that are fitted to many: the fit itself, and the bundle that has them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.backends.onnxruntime import OnnxRuntimeBackend
from sbldm.engine.bundle.fitted import sampling_faults
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.bundle.manifest import FittedSteps, NoiseSchedule, SamplingDefaults
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.sampling.mask_first import MaskFirstModel
from sbldm.engine.sampling.plan import sampling_plan
from sbldm.engine.sampling.samplers import sample_multistep
from sbldm.engine.sampling.types import SamplingOptions
from sbldm.export import fitted_steps
from sbldm.export.bundle import ExportOptions, export_bundle
from sbldm.export.fitted_steps import StepFit, Way, least_squares, many_steps, with_fitted_steps
from sbldm.export.parity import sample_volume
from sbldm.train.config import ScheduleConfig
from sbldm.train.diffusion import make_schedule

from tests.conftest import TRACED_OPSET

SHAPE = (2, 3, 4)
SCHEDULE = make_schedule(ScheduleConfig(1000, 0.002, 0.02, True, "v_prediction", "trailing"))
MEAN = np.random.default_rng(9).standard_normal(SHAPE).astype(np.float32)
VARIANCE = np.random.default_rng(10).uniform(0.1, 1.0, SHAPE).astype(np.float32)


def gaussian(_component: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The best denoiser of data with `MEAN` and `VARIANCE` (velocity), in closed form."""
    signal = SCHEDULE.alphas_cumprod[int(inputs["timestep"][0])]
    alpha, sigma = np.sqrt(signal), np.sqrt(1 - signal)
    x = inputs["sample"]
    x0 = MEAN + VARIANCE * alpha / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)
    noise = (x - alpha * x0) / sigma if sigma > 0 else np.zeros_like(x)
    return {"prediction": (alpha * noise - sigma * x0).astype(np.float32)}


def way(seed: int) -> Way:
    state = np.random.default_rng(seed).standard_normal((1, *SHAPE)).astype(np.float32)
    states, plan = [state[0]], many_steps(SCHEDULE)
    for time, row in zip(plan.timesteps, plan.coefficients, strict=True):
        state = fitted_steps.ddim_step(
            state, gaussian("", {"sample": state, "timestep": [time]})["prediction"], None, None, row
        )
        states.append(state[0])
    return Way({}, states)


def end_of(schedule: NoiseSchedule, sampler: Any, steps: int, start: NDArray[np.float32]) -> NDArray[np.float32]:
    plan = sampling_plan(schedule, SamplingOptions(steps, sampler, 0.0, 1.0, 0, 1))
    return sample_multistep(
        lambda x, t: (gaussian("", {"sample": x, "timestep": np.array([t])})["prediction"], None),
        start[None],
        plan,
        lambda _: np.zeros(0, np.float32),
    )[0]


@pytest.fixture(scope="module")
def fitted() -> FittedSteps:
    return StepFit(gaussian, "denoiser", SCHEDULE, [way(seed) for seed in range(4)]).fit(4)


def test_fitted_steps_end_nearer_to_many_steps_than_a_solver_of_twice_as_many(fitted: FittedSteps) -> None:
    schedule = dataclasses.replace(SCHEDULE, fitted=(fitted,))
    for seed in range(20, 24):  # none that was fitted to
        wanted = way(seed).states[-1]
        error = np.mean((end_of(schedule, "fitted", 4, way(seed).states[0]) - wanted) ** 2)
        assert error < 0.25 * np.mean((end_of(schedule, "dpmpp-2m", 8, way(seed).states[0]) - wanted) ** 2)


def test_the_times_of_the_calls_are_searched_for(fitted: FittedSteps) -> None:
    assert fitted.timesteps[0] == 999
    assert fitted.timesteps != tuple(sampling_plan(SCHEDULE, SamplingOptions(4, "ddim", 0.0, 1.0, 0, 1)).timesteps)
    fit = StepFit(gaussian, "denoiser", SCHEDULE, [way(seed) for seed in range(4)])
    places = [many_steps(SCHEDULE).timesteps.index(float(time)) for time in fitted.timesteps]
    rows, error = fit.rows(places)
    assert tuple(rows) == fitted.rows
    assert error < fit.rows([0, 50, 100, 150])[1]


def test_one_call_is_the_best_that_one_call_can_do() -> None:
    ways = [way(seed) for seed in range(4)]
    (row,) = StepFit(gaussian, "denoiser", SCHEDULE, ways).fit(1).rows
    assert row[2] == 0.0
    fit = StepFit(gaussian, "denoiser", SCHEDULE, ways)
    x0 = [gaussian("", {"sample": w.states[0][None], "timestep": np.array([999])})["prediction"][0] * -1 for w in ways]
    columns = np.stack([np.stack([w.states[0] for w in ways]).ravel(), np.stack(x0).ravel()], axis=1)
    wanted = np.stack([w.states[-1] for w in ways]).ravel()
    expected, *_ = np.linalg.lstsq(columns.astype(np.float64), wanted.astype(np.float64), rcond=None)
    np.testing.assert_allclose(row[:2], expected, rtol=1e-5)
    assert fit.rows([0])[1] == pytest.approx(np.mean((columns @ expected - wanted) ** 2), rel=1e-3)


@pytest.mark.parametrize(("steps", "spacing"), [(50, "trailing"), (1000, "leading")])
def test_short_schedules_and_other_spacings_are_fitted_too(steps: int, spacing: Any) -> None:
    schedule = make_schedule(ScheduleConfig(steps, 0.02, 0.2, False, "v_prediction", spacing))
    many = many_steps(schedule)
    states = [np.full(SHAPE, k, np.float32) for k in range(len(many.timesteps) + 1)]
    zero = StepFit(lambda _, inputs: {"prediction": 0 * inputs["sample"]}, "denoiser", schedule, [Way({}, states)])
    found = zero.fit(2)
    assert len(many.timesteps) == min(steps, 200)
    assert found.timesteps[0] == many.timesteps[0]
    assert list(sampling_faults("defaults", SamplingDefaults("fitted", 2, 0, 1), "schedule", (found,), steps)) == []


def test_least_squares_takes_all_samples_together() -> None:
    rng = np.random.default_rng(3)
    terms = [[rng.standard_normal(50).astype(np.float32) for _ in range(3)] for _ in range(2)]
    wanted = [np.float32(2) * a - np.float32(0.5) * b + np.float32(0.25) * c for a, b, c in terms]
    np.testing.assert_allclose(least_squares(terms, wanted), [2, -0.5, 0.25], atol=1e-6)


@pytest.mark.usefixtures("traced_once")
def test_an_exported_bundle_has_fitted_steps_of_both_denoisers_as_its_defaults(
    tiny_mask_first_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted_steps, "CASES", 1)
    monkeypatch.setattr(fitted_steps, "STEPS", (1, 2))
    monkeypatch.setattr(fitted_steps, "MASK_STEPS", (2,))
    options = ExportOptions(opset=TRACED_OPSET, fit_steps=True)
    few_bundle = export_bundle(tiny_mask_first_checkpoint, tmp_path / "few", options)
    manifest = few_bundle.manifest
    said, defaults = manifest.mask_first, manifest.defaults
    assert said is not None
    assert [len(steps.timesteps) for steps in manifest.schedule.fitted] == [1, 2]
    assert (defaults.sampler, defaults.steps, defaults.eta, defaults.guidance) == ("fitted", 2, 0.0, 1.0)
    assert (said.mask_sampling.sampler, said.mask_sampling.steps) == ("fitted", 2)
    assert MaskFirstModel.of(manifest, said).mask_plan.timesteps == tuple(map(float, said.fitted[0].timesteps))
    calls: list[str] = []
    run = OnnxRuntimeBackend(few_bundle, "cpu", 1).run

    def counted(component: str, inputs: Any) -> Any:
        calls.append(component)
        return run(component, inputs)

    sample_volume(counted, manifest, 1)
    assert (calls.count("mask_denoiser"), calls.count("denoiser")) == (2, 2)


def test_guidance_is_refused(tiny_mask_first_bundle: Bundle) -> None:
    manifest = tiny_mask_first_bundle.manifest
    guided = dataclasses.replace(manifest, defaults=dataclasses.replace(manifest.defaults, guidance=2.0))
    with pytest.raises(InvalidInputError, match=r"sampling.guidance is 2: fitted steps know none"):
        with_fitted_steps(lambda *_: {}, guided)
