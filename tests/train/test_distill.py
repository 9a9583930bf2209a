"""Stage `distill`: one call that gives what guidance gives in two."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from sbldm.engine.errors import InvalidInputError
from sbldm.train.build import make_denoiser, make_system_aggregator
from sbldm.train.checkpoint import load_system, load_weights, weights_path, write_tensors
from sbldm.train.condition_file import load_conditions
from sbldm.train.config import SystemConfig
from sbldm.train.diffusion import make_schedule
from sbldm.train.latents import LatentStore
from sbldm.train.objectives.denoiser import NoisyLatents
from sbldm.train.objectives.distill import DistillObjective
from sbldm.train.system import planned_stages
from sbldm.train.trained import load_networks
from torch import nn

GUIDANCE = 3.0


@pytest.fixture(name="system")
def _system(tiny_checkpoint: Path) -> SystemConfig:
    return load_system(tiny_checkpoint)


def teacher_of(checkpoint: Path, config: SystemConfig) -> nn.Module:
    teacher = make_denoiser(config, load_conditions(checkpoint)[0])
    load_weights(teacher, checkpoint, "denoiser")
    return teacher.eval().requires_grad_(False)


def objective(checkpoint: Path, config: SystemConfig, dropout: float) -> DistillObjective:
    config = dataclasses.replace(config, condition_dropout=dropout)
    rng = np.random.default_rng(0)
    columns = load_conditions(checkpoint)[0]
    latents = rng.standard_normal((6, 2, config.grid.shape[2], *config.slice_shape)).astype(np.float16)
    conditions = rng.standard_normal((6, 2, len(columns)))
    aggregator = make_system_aggregator(config)
    load_weights(aggregator, checkpoint, "aggregator")
    store, schedule = LatentStore(latents, conditions), make_schedule(config.schedule)
    drawn = NoisyLatents(config, store, aggregator, conditions.astype(np.float32), schedule)
    return DistillObjective(config, drawn, teacher_of(checkpoint, config), GUIDANCE, nullcontext)


def test_the_target_is_classifier_free_guidance(tiny_checkpoint: Path, system: SystemConfig) -> None:
    made = objective(tiny_checkpoint, system, dropout=0.5)
    batch = made.latents.draw(8, torch.device("cpu"), np.random.default_rng(1))
    assert set(batch.keep.tolist()) == {0.0, 1.0}
    guided = made.guided(batch)
    one, none = torch.ones(8), torch.zeros(8)
    conditional = made.teacher(batch.noisy, batch.timestep, batch.condition, one)
    unconditional = made.teacher(batch.noisy, batch.timestep, batch.condition, none)
    wanted = torch.lerp(unconditional, conditional, GUIDANCE)
    kept = batch.keep > 0
    torch.testing.assert_close(guided[kept], wanted[kept], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(guided[~kept], unconditional[~kept])


def test_a_student_comes_near_its_guided_teacher(tiny_checkpoint: Path, system: SystemConfig) -> None:
    made = objective(tiny_checkpoint, system, dropout=0.1)
    torch.manual_seed(0)
    student = copy.deepcopy(made.teacher).requires_grad_(True)
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    losses = []
    for step in range(60):
        loss, _ = made(student, step, np.random.default_rng(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    assert all(parameter.grad is None for parameter in made.teacher.parameters())


def test_a_distilled_system_takes_its_student_and_needs_it(
    tiny_checkpoint: Path, system: SystemConfig, tmp_path: Path
) -> None:
    assert planned_stages(system, "all")[-1] == "distill"
    assert "distill" not in planned_stages(dataclasses.replace(system, distillation=None), "all")
    copied = Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))
    student = {name: value + 1 for name, value in load_networks(copied, system)["denoiser"].state_dict().items()}
    write_tensors(weights_path(copied, "distill"), student)
    loaded = load_networks(copied, system)["denoiser"].state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in student.items())
    weights_path(copied, "distill").unlink()
    with pytest.raises(InvalidInputError, match="train stage 'distill' first"):
        load_networks(copied, system)
