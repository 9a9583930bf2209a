"""A stage: exact resume, refusal of what does not fit, the learning rate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from sbldm.engine.errors import InvalidInputError
from sbldm.train.checkpoint import read_tensors, weights_path
from sbldm.train.config import StageConfig
from sbldm.train.stage import StageRun, finished, learning_rate, train_stage
from torch import Tensor, nn

CONFIG = StageConfig(steps=12, batch_size=4, learning_rate=0.01, warmup_steps=2, weight_decay=0.01, ema_decay=0.9)


class Killed(Exception):
    """Stands for kill -9: nothing after it runs in the stage."""


def a_run(directory: Path, seed: int = 3) -> StageRun:
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    return StageRun(fabric, directory, seed, lambda *_: None, save_seconds=0.0, log_every=1)


def a_module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def noisy_loss(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
    x = torch.from_numpy(generator.normal(size=(4, 3)).astype(np.float32))
    return (module(x) - torch.randn(4, 2)).square().mean(), {}


def losses(directory: Path) -> dict[int, float]:
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return {entry["step"]: entry["loss"] for entry in map(json.loads, lines)}


def test_a_killed_stage_ends_where_an_uninterrupted_one_ends(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_stage(a_run(whole), "denoiser", a_module(), noisy_loss, CONFIG)

    def dies(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        if step == 7:
            raise Killed
        return noisy_loss(module, step, generator)

    with pytest.raises(Killed):
        train_stage(a_run(killed), "denoiser", a_module(), dies, CONFIG)
    assert not finished(killed, "denoiser", CONFIG)
    train_stage(a_run(killed), "denoiser", a_module(), noisy_loss, CONFIG)
    assert finished(killed, "denoiser", CONFIG)
    assert losses(killed) == losses(whole)
    left, right = read_tensors(weights_path(killed, "denoiser")), read_tensors(weights_path(whole, "denoiser"))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


def test_another_seed_is_refused(tmp_path: Path) -> None:
    train_stage(a_run(tmp_path), "denoiser", a_module(), noisy_loss, CONFIG)
    with pytest.raises(InvalidInputError, match="seed 3, not 4"):
        train_stage(a_run(tmp_path, seed=4), "denoiser", a_module(), noisy_loss, CONFIG)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    train_stage(a_run(tmp_path), "denoiser", a_module(), noisy_loss, CONFIG)
    with pytest.raises(InvalidInputError, match="does not fit"):
        train_stage(a_run(tmp_path), "denoiser", nn.Linear(3, 5), noisy_loss, CONFIG)


def test_a_loss_that_is_not_finite_stops_the_stage(tmp_path: Path) -> None:
    def broken(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        loss, metrics = noisy_loss(module, step, generator)
        return loss * (float("nan") if step == 2 else 1.0), metrics

    with pytest.raises(InvalidInputError, match="not finite at step 2"):
        train_stage(a_run(tmp_path), "denoiser", a_module(), broken, CONFIG)


def test_learning_rate_rises_stays_and_falls() -> None:
    rates = [learning_rate(CONFIG, step) for step in range(CONFIG.steps)]
    assert rates[0] == pytest.approx(0.005)
    assert rates[3] == CONFIG.learning_rate
    assert all(a > b for a, b in pairwise(rates[9:]))
    assert rates[-1] > 0
