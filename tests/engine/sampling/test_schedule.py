"""Timesteps and points against diffusers' schedulers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sbldm.engine.bundle.manifest import NoiseSchedule, TimestepSpacing
from sbldm.engine.errors import UsageError
from sbldm.engine.sampling.schedule import noise_levels, timesteps

SPACINGS: tuple[TimestepSpacing, ...] = ("leading", "trailing", "linspace")


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50, 333, 1000])
def test_timesteps_are_diffusers(spacing: TimestepSpacing, steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=1000, timestep_spacing=spacing, steps_offset=0)
    scheduler.set_timesteps(steps)
    np.testing.assert_array_equal(timesteps(1000, steps, spacing), scheduler.timesteps.numpy())


@given(st.sampled_from(SPACINGS), st.integers(1, 1200), st.data())
def test_timesteps_fall_and_stay_in_the_table(spacing: TimestepSpacing, train_steps: int, data: st.DataObject) -> None:
    steps = data.draw(st.integers(1, train_steps))
    visited = timesteps(train_steps, steps, spacing)
    assert visited.shape == (steps,)
    assert visited.min() >= 0
    assert visited.max() <= train_steps - 1
    assert np.all(np.diff(visited) < 0)
    if spacing == "trailing":
        assert visited[0] == train_steps - 1


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_steps_outside_of_the_table_are_refused(steps: int) -> None:
    with pytest.raises(UsageError, match=r"allowed 1\.\.10"):
        timesteps(10, steps, "trailing")


def test_points_carry_the_table_and_end_at_the_sample() -> None:
    table = (0.9, 0.5, 0.1, 0.0)
    points = noise_levels(NoiseSchedule("test", "v_prediction", "trailing", table), 2)
    assert [p.timestep for p in points] == [3, 1, None]
    np.testing.assert_allclose([p.alpha**2 for p in points], [0.0, 0.5, 1.0])
    np.testing.assert_allclose([p.alpha**2 + p.sigma**2 for p in points], 1.0)
