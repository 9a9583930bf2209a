"""Whole sampling loops, step for step, against diffusers' DDIM and DPM-Solver++(2M) schedulers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from sbldm.engine.bundle.manifest import FittedSteps, NoiseSchedule, PredictionType, SamplerName, TimestepSpacing
from sbldm.engine.errors import UsageError
from sbldm.engine.sampling.plan import SamplingPlan, _dpmpp_2m_rows, sampling_plan
from sbldm.engine.sampling.samplers import Latent, sample_ddim, sample_multistep
from sbldm.engine.sampling.schedule import NoiseLevel
from sbldm.engine.sampling.types import SamplingOptions

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SHAPE = (1, 4, 4, 3, 3)
TYPES: tuple[PredictionType, ...] = get_args(PredictionType)
COMMON = {"num_train_timesteps": 1000, "beta_start": 0.002, "beta_end": 0.02, "beta_schedule": "scaled_linear"}


def table(zero_terminal_snr: bool) -> tuple[float, ...]:
    """alphas_cumprod of the published schedule in float64; Lin et al. 2023, algorithm 1, where rescaled."""
    betas = np.linspace(0.002**0.5, 0.02**0.5, 1000) ** 2
    root = np.sqrt(np.cumprod(1 - betas))
    if zero_terminal_snr:
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return tuple(float(v) for v in root**2)


def schedule(kind: PredictionType, spacing: TimestepSpacing, zero_terminal_snr: bool) -> NoiseSchedule:
    return NoiseSchedule("test", kind, spacing, table(zero_terminal_snr))


def plan_of(
    table: NoiseSchedule, steps: int, sampler: SamplerName, eta: float = 0.0, guidance: float = 1.0
) -> SamplingPlan:
    return sampling_plan(table, SamplingOptions(steps, sampler, eta, guidance, 0, 1))


def network(state: Latent, timestep: float) -> Latent:
    """Stands for a denoiser: smooth, bounded, different at every timestep."""
    mixed = np.tanh(0.7 * state + 0.3 * np.roll(state, 1, -1) + np.float32(timestep / 1000))
    return (0.8 * mixed).astype(np.float32)


def normal(draw: int) -> Latent:
    return np.random.default_rng(draw).standard_normal(SHAPE).astype(np.float32)


def reference_states(scheduler: Any, steps: int, **step_options: Any) -> list[Latent]:
    """The state before every denoiser call, and the result, of a diffusers scheduler."""
    scheduler.set_timesteps(steps)
    state = torch.from_numpy(normal(0))
    states = [state.numpy()]
    for draw, timestep in enumerate(scheduler.timesteps, start=1):
        noise = {"variance_noise": torch.from_numpy(normal(draw))} if step_options.get("eta") else {}
        prediction = torch.from_numpy(network(state.numpy(), float(timestep)))
        state = scheduler.step(prediction, timestep, state, **step_options, **noise).prev_sample
        states.append(state.float().numpy())
    return states


class Watched:
    """The denoiser as the samplers call it; keeps every state that it was shown."""

    def __init__(self) -> None:
        self.states: list[Latent] = []

    def __call__(self, state: Latent, timestep: float) -> tuple[Latent, None]:
        self.states.append(state.copy())
        return network(state, timestep), None


def assert_same(states: list[Latent], expected: list[Latent]) -> None:
    assert len(states) == len(expected)
    for step, (mine, theirs) in enumerate(zip(states, expected, strict=True)):
        np.testing.assert_allclose(mine, theirs, atol=2e-4 * float(np.abs(theirs).max()), err_msg=f"step {step}")


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("steps", [4, 25])
def test_ddim(kind: PredictionType, spacing: TimestepSpacing, eta: float, zero_terminal_snr: bool, steps: int) -> None:
    if zero_terminal_snr and kind == "epsilon" and spacing == "trailing":
        pytest.skip("noise tells nothing where there is no signal: x0 is undefined")
    if zero_terminal_snr and eta == 1.0 and spacing == "trailing":
        pytest.skip("diffusers takes the root of a negative rounding error there; see the test of pure noise")
    scheduler = diffusers.DDIMScheduler(
        **COMMON, prediction_type=kind, timestep_spacing=spacing, clip_sample=False, set_alpha_to_one=True,
        rescale_betas_zero_snr=zero_terminal_snr, steps_offset=0,
    )  # fmt: skip
    expected = reference_states(scheduler, steps, eta=eta)
    plan = plan_of(schedule(kind, spacing, zero_terminal_snr), steps, "ddim", eta)
    if spacing == "leading":  # diffusers steps back by 1000 // steps, which is where our next point lies
        assert 1000 % steps == 0
    watched = Watched()
    result = sample_ddim(watched, normal(0), plan, normal)
    assert_same([*watched.states, result], expected)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("steps", [5, 20])
def test_dpmpp_2m(kind: PredictionType, spacing: TimestepSpacing, zero_terminal_snr: bool, steps: int) -> None:
    if zero_terminal_snr and kind == "epsilon":
        pytest.skip("noise tells nothing where there is no signal: x0 is undefined")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **COMMON, prediction_type=kind, timestep_spacing=spacing, algorithm_type="dpmsolver++", solver_order=2,
        final_sigmas_type="zero", lower_order_final=True, rescale_betas_zero_snr=zero_terminal_snr,
    )  # fmt: skip
    expected = reference_states(scheduler, steps)
    table = schedule(kind, spacing, zero_terminal_snr)
    if spacing == "trailing":
        plan = plan_of(table, steps, "dpmpp-2m")
        assert list(plan.timesteps) == scheduler.timesteps.tolist()
    else:  # diffusers' two schedulers mean different timesteps by it; ours are DDIM's
        visited = scheduler.timesteps.tolist()
        levels = [NoiseLevel(t, table.alphas_cumprod[t] ** 0.5, (1 - table.alphas_cumprod[t]) ** 0.5) for t in visited]
        plan = SamplingPlan("dpmpp-2m", tuple(visited), _dpmpp_2m_rows(kind, [*levels, NoiseLevel(None, 1.0, 0.0)]))
    watched = Watched()
    result = sample_multistep(watched, normal(0), plan, normal)
    assert_same([*watched.states, result], expected)


def test_guidance_of_one_condition_is_the_condition() -> None:
    table = schedule("v_prediction", "trailing", True)

    def guided(state: Latent, timestep: float) -> tuple[Latent, Latent]:
        made = network(state, timestep)
        return made, made

    plain = sample_multistep(Watched(), normal(0), plan_of(table, 5, "dpmpp-2m"), normal)
    plan = plan_of(table, 5, "dpmpp-2m", guidance=3.0)
    np.testing.assert_allclose(sample_multistep(guided, normal(0), plan, normal), plain, atol=1e-5)


def test_deterministic_ddim_draws_no_noise() -> None:
    def refuse(_draw: int) -> Latent:
        raise AssertionError("eta 0 needs no noise")

    plan = plan_of(schedule("v_prediction", "trailing", True), 5, "ddim")
    first = sample_ddim(Watched(), normal(0), plan, refuse)
    np.testing.assert_array_equal(sample_ddim(Watched(), normal(0), plan, refuse), first)


def test_ancestral_sampling_starts_from_pure_noise() -> None:
    table, options = schedule("v_prediction", "trailing", True), SamplingOptions(4, "ddim", 1.0, 1.0, 0, 1)
    plan = sampling_plan(table, options)
    assert plan.start == (0.0, 1.0)
    watched = Watched()
    sample_ddim(watched, normal(0), plan, normal)
    x0 = -network(normal(0), 999)  # v = -x0 where there is no signal, and the whole deviation is fresh noise
    alpha, sigma = sampling_plan(table, options, 1).start
    np.testing.assert_allclose(watched.states[1], alpha * x0 + sigma * normal(1), atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp-2m"])
def test_a_plan_from_a_later_step_on_is_the_rest_of_the_whole_one(sampler: SamplerName) -> None:
    """Draws keep their numbers; DPM-Solver++ has no history at the step that it starts with."""
    table, options = schedule("v_prediction", "trailing", True), SamplingOptions(6, sampler, 0.0, 1.0, 0, 1)
    whole, rest = sampling_plan(table, options), sampling_plan(table, options, 2)
    assert rest.timesteps == whole.timesteps[2:]
    assert [rest.draw(step) for step in range(4)] == [whole.draw(step) for step in range(2, 6)] == [3, 4, 5, 6]
    if sampler == "ddim":
        assert rest.coefficients == whole.coefficients[2:]
    else:
        assert rest.coefficients[0].from_previous_x0 == 0.0 != whole.coefficients[2].from_previous_x0
        assert rest.coefficients[1:] == whole.coefficients[3:]
    with pytest.raises(ValueError, match="one timestep and one row"):
        sampling_plan(table, options, 6)


def test_what_a_sampler_cannot_do_is_refused() -> None:
    table = schedule("v_prediction", "trailing", True)
    with pytest.raises(UsageError, match="dpmpp-2m is deterministic"):
        plan_of(table, 5, "dpmpp-2m", eta=0.5)
    with pytest.raises(UsageError, match=r"allowed 1\.\.1000"):
        plan_of(table, 1001, "ddim")


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp-2m"])
@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_every_number_of_steps_is_finite(sampler: SamplerName, kind: PredictionType) -> None:
    """Near the end of a zero-SNR schedule neighbouring levels hold less signal than a logarithm bears."""
    levels = schedule(kind, "trailing", True)
    largest = max(
        abs(value)
        for steps in range(1, 1001)
        for row in plan_of(levels, steps, sampler).coefficients
        for value in (row.x0_from_sample, row.x0_from_prediction, row.from_sample, row.from_x0, row.from_previous_x0)
    )
    assert largest < 10


def fitted_schedule(kind: PredictionType, steps: int) -> NoiseSchedule:
    """With the steps of DPM-Solver++(2M) as fitted ones."""
    plain = schedule(kind, "trailing", False)
    plan = plan_of(plain, steps, "dpmpp-2m")
    rows = tuple((row.from_sample, row.from_x0, row.from_previous_x0) for row in plan.coefficients)
    return replace(plain, fitted=(FittedSteps(tuple(map(int, plan.timesteps)), rows),))


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_fitted_steps_with_the_rows_of_a_solver_are_that_solver(kind: PredictionType) -> None:
    table = fitted_schedule(kind, 6)
    fitted, solver = plan_of(table, 6, "fitted"), plan_of(table, 6, "dpmpp-2m")
    assert (fitted.timesteps, fitted.start, fitted.keeps_x0) == (solver.timesteps, solver.start, True)
    results = [
        sample_multistep(lambda x, t: (network(x, t), None), normal(0), plan, normal) for plan in (fitted, solver)
    ]
    np.testing.assert_allclose(*results, atol=1e-6)


def test_fitted_steps_that_a_bundle_lacks_are_refused() -> None:
    table = fitted_schedule("v_prediction", 6)
    with pytest.raises(UsageError, match=r"--sampler fitted, --steps 5: this bundle has fitted steps for --steps 6"):
        plan_of(table, 5, "fitted")
    with pytest.raises(UsageError, match=r"this bundle has no fitted steps; --sampler ddim takes any number"):
        plan_of(schedule("v_prediction", "trailing", True), 6, "fitted")
    with pytest.raises(UsageError, match=r"--eta: fitted is deterministic"):
        plan_of(table, 6, "fitted", eta=0.5)
    with pytest.raises(UsageError, match=r"--guidance: fitted steps are those without guidance"):
        plan_of(table, 6, "fitted", guidance=2.0)
