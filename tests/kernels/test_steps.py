"""The sampler steps against diffusers' schedulers and against float64 arithmetic."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from sbldm.kernels.ddim import ddim_coefficients, ddim_step
from sbldm.kernels.dpmpp import dpmpp_2m_coefficients, dpmpp_2m_step
from sbldm.kernels.step import PredictionType

SHAPE = (2, 4, 3, 5, 5)
TYPES = get_args(PredictionType)


def scheduler_config(prediction_type: str) -> dict[str, object]:
    return {
        "num_train_timesteps": 1000,
        "beta_start": 0.002,
        "beta_end": 0.02,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction_type,
    }


def alpha_sigma(alpha_bar: float) -> tuple[float, float]:
    return float(np.sqrt(alpha_bar)), float(np.sqrt(1 - alpha_bar))


def normal(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("clip", [None, 1.5])
def test_ddim_matches_diffusers(prediction_type: PredictionType, eta: float, clip: float | None) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        **scheduler_config(prediction_type), clip_sample=clip is not None, clip_sample_range=clip or 1.0
    )
    scheduler.set_timesteps(10)
    x = normal(0)
    bars = scheduler.alphas_cumprod.numpy().astype(np.float64)
    for index, step in enumerate(scheduler.timesteps.tolist()):
        prediction, noise = normal(2 * index + 1), normal(2 * index + 2)
        expected = scheduler.step(
            torch.from_numpy(prediction), step, torch.from_numpy(x), eta=eta, use_clipped_model_output=True,
            variance_noise=torch.from_numpy(noise),
        ).prev_sample.numpy()  # fmt: skip
        previous = bars[step - 100] if step >= 100 else 1.0
        coefficients = ddim_coefficients(
            prediction_type, *alpha_sigma(bars[step]), *alpha_sigma(previous), eta=eta, clip=clip
        )
        x = ddim_step(x, prediction, None, 1.0, coefficients, noise)
        np.testing.assert_allclose(x, expected, rtol=3e-5, atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize("prediction_type", TYPES)
@pytest.mark.parametrize("steps", [5, 20])
def test_dpmpp_2m_matches_diffusers(prediction_type: PredictionType, steps: int) -> None:
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **scheduler_config(prediction_type), algorithm_type="dpmsolver++", solver_order=2, lower_order_final=True
    )
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.numpy().astype(np.float64)
    points = [(float(1 / np.sqrt(1 + s * s)), float(s / np.sqrt(1 + s * s))) for s in sigmas]
    x, previous = normal(0), None
    expected = torch.from_numpy(x)
    for index, step in enumerate(scheduler.timesteps):
        prediction = normal(index + 1)
        expected = scheduler.step(torch.from_numpy(prediction), step, expected).prev_sample
        before = points[index - 1] if 0 < index < steps - 1 else None
        coefficients = dpmpp_2m_coefficients(prediction_type, before, points[index], points[index + 1])
        x, previous = dpmpp_2m_step(x, prediction, None, 1.0, coefficients, previous)
        np.testing.assert_allclose(x, expected.numpy(), rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_guidance_mixes_the_two_predictions() -> None:
    coefficients = ddim_coefficients("v_prediction", 0.6, 0.8, 0.8, 0.6)
    x, conditional, unconditional = normal(0), normal(1), normal(2)
    mixed = (unconditional + 2.5 * (conditional.astype(np.float64) - unconditional)).astype(np.float32)
    guided = ddim_step(x, conditional, unconditional, 2.5, coefficients)
    np.testing.assert_allclose(guided, ddim_step(x, mixed, None, 1.0, coefficients), atol=2e-6)
    half = ddim_step(x, conditional.astype(np.float16), unconditional.astype(np.float16), 2.5, coefficients)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, guided, atol=0.02)


def test_inputs_are_left_alone_and_nan_stays_in_its_sample() -> None:
    x, prediction = normal(0), normal(1)
    prediction[1, 0, 0, 0, 0] = np.nan
    kept = x.copy()
    coefficients = ddim_coefficients("epsilon", 0.6, 0.8, 0.8, 0.6, clip=1.0)
    stepped = ddim_step(x, prediction, None, 1.0, coefficients)
    np.testing.assert_array_equal(x, kept)
    assert np.isfinite(stepped[0]).all()
    assert np.isnan(stepped[1]).sum() == 1


def test_what_a_step_needs_and_does_not_get() -> None:
    x = normal(0)
    with pytest.raises(ValueError, match="give `noise`"):
        ddim_step(x, x, None, 1.0, ddim_coefficients("v_prediction", 0.6, 0.8, 0.8, 0.6, eta=1.0))
    with pytest.raises(ValueError, match="previous_x0"):
        dpmpp_2m_step(x, x, None, 1.0, dpmpp_2m_coefficients("v_prediction", (0.4, 0.9), (0.6, 0.8), (0.8, 0.6)))
    with pytest.raises(ValueError, match="no second order"):
        dpmpp_2m_coefficients("v_prediction", (0.4, 0.9), (0.6, 0.8), (1.0, 0.0))
    with pytest.raises(ValueError, match="one of epsilon, sample, v_prediction"):
        ddim_coefficients("score", 0.6, 0.8, 0.8, 0.6)  # pyright: ignore[reportArgumentType]
