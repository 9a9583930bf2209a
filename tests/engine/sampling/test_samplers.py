"""Whole sampling loops, step for step, against diffusers' DDIM and DPM-Solver++(2M) schedulers."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from sbldm.engine.bundle.manifest import NoiseSchedule, PredictionType, TimestepSpacing
from sbldm.engine.sampling.samplers import Latent, sample_ddim, sample_dpmpp_2m
from sbldm.engine.sampling.schedule import Point, sampling_points

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

    def __call__(self, state: Latent, timestep: int) -> tuple[Latent, None]:
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
    plan = schedule(kind, spacing, zero_terminal_snr)
    if spacing == "leading":  # diffusers steps back by 1000 // steps, which is where our next point lies
        assert 1000 % steps == 0
    watched = Watched()
    result = sample_ddim(watched, normal(0), sampling_points(plan, steps), kind, eta=eta, noise=normal)
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
    plan = schedule(kind, spacing, zero_terminal_snr)
    if spacing == "trailing":
        points = sampling_points(plan, steps)
        assert [p.timestep for p in points[:-1]] == scheduler.timesteps.tolist()
    else:  # diffusers' two schedulers mean different timesteps by it; ours are DDIM's
        visited = scheduler.timesteps.tolist()
        alphas = [plan.alphas_cumprod[t] for t in visited]
        points = [Point(t, a**0.5, (1 - a) ** 0.5) for t, a in zip(visited, alphas, strict=True)]
        points.append(Point(None, 1.0, 0.0))
    watched = Watched()
    result = sample_dpmpp_2m(watched, normal(0), points, kind)
    assert_same([*watched.states, result], expected)


def test_guidance_of_one_condition_is_the_condition() -> None:
    plan = schedule("v_prediction", "trailing", True)

    def guided(state: Latent, timestep: int) -> tuple[Latent, Latent]:
        made = network(state, timestep)
        return made, made

    points = sampling_points(plan, 5)
    plain = sample_dpmpp_2m(Watched(), normal(0), points, "v_prediction")
    np.testing.assert_allclose(
        sample_dpmpp_2m(guided, normal(0), points, "v_prediction", guidance=3.0), plain, atol=1e-5
    )


def test_deterministic_ddim_draws_no_noise() -> None:
    def refuse(_draw: int) -> Latent:
        raise AssertionError("eta 0 needs no noise")

    points = sampling_points(schedule("v_prediction", "trailing", True), 5)
    first = sample_ddim(Watched(), normal(0), points, "v_prediction", noise=refuse)
    np.testing.assert_array_equal(sample_ddim(Watched(), normal(0), points, "v_prediction", noise=refuse), first)


def test_ancestral_sampling_starts_from_pure_noise() -> None:
    points = sampling_points(schedule("v_prediction", "trailing", True), 4)
    assert points[0].alpha == 0.0
    watched = Watched()
    sample_ddim(watched, normal(0), points, "v_prediction", eta=1.0, noise=normal)
    x0 = -network(normal(0), 999)  # v = -x0 where there is no signal, and the whole deviation is fresh noise
    np.testing.assert_allclose(watched.states[1], points[1].alpha * x0 + points[1].sigma * normal(1), atol=1e-5)
