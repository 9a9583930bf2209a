"""The forward process against diffusers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from sbldm.train.config import load_preset
from sbldm.train.diffusion import add_noise, make_schedule, prediction_target, table_tensor


@pytest.mark.parametrize("preset", ["phantom", "isbi2024"])
def test_table_equals_diffusers(preset: str) -> None:
    config = load_preset(preset).schedule
    reference = DDIMScheduler(
        num_train_timesteps=config.steps, beta_start=config.beta_start, beta_end=config.beta_end,
        beta_schedule="scaled_linear", rescale_betas_zero_snr=config.zero_terminal_snr,
    )  # fmt: skip
    table = np.asarray(make_schedule(config).alphas_cumprod)
    np.testing.assert_allclose(table, reference.alphas_cumprod.numpy(), atol=2e-6)
    assert (table[-1] == 0) == config.zero_terminal_snr


def test_noise_and_velocity_equal_diffusers() -> None:
    schedule = make_schedule(load_preset("phantom").schedule)
    reference = DDIMScheduler(num_train_timesteps=1000)
    signal_table = table_tensor(schedule, torch.device("cpu"))
    reference.alphas_cumprod = signal_table
    clean, noise, t = torch.randn(3, 4, 2, 2, 2), torch.randn(3, 4, 2, 2, 2), torch.tensor([0, 500, 999])
    torch.testing.assert_close(add_noise(clean, noise, signal_table[t]), reference.add_noise(clean, noise, t))
    velocity = prediction_target(clean, noise, signal_table[t], "v_prediction")
    torch.testing.assert_close(velocity, reference.get_velocity(clean, noise, t))
