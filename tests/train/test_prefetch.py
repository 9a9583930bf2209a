"""Batches that are drawn ahead are those that would be drawn in their turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from sbldm.train import prefetch
from sbldm.train.config import StageConfig
from sbldm.train.prefetch import BatchGenerator, DrawnAhead, to_device
from sbldm.train.stage import StageRun, step_generator, train_stage
from torch import Tensor, nn

STEPS = 5


class Drawing:
    """Draws normals, in numbers that depend on the generator, and keeps what it drew."""

    def __init__(self, failing: int | None = None) -> None:
        self.made, self.failing = list[NDArray[np.float64]](), failing

    def __call__(self, size: int, generator: np.random.Generator) -> NDArray[np.float64]:
        if len(self.made) == self.failing:
            raise OSError("no such case")
        self.made.append(generator.normal(size=(size, int(generator.integers(1, 9)))))
        return self.made[-1]


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "available_threads", lambda: 2)


def generator(step: int, last: int = STEPS - 1) -> BatchGenerator:
    return step_generator(7, "denoiser", step, step + 1 if step < last else None)


def taken(draw: Callable[[int, np.random.Generator], NDArray[np.float64]]) -> list[tuple[bytes, float]]:
    """The batches of a few steps, and what their generators give afterwards."""
    found = []
    for step in range(STEPS):
        own = generator(step)
        found.append((draw(3, own).tobytes(), own.random()))
    return found


def finish(ahead: DrawnAhead[NDArray[np.float64]]) -> None:
    """Wait for what is being drawn."""
    if ahead._pool is not None:
        ahead._pool.submit(int).result()


@pytest.mark.usefixtures("two_processors")
def test_batches_and_generators_are_those_of_their_turn() -> None:
    drawing = Drawing()
    assert taken(DrawnAhead(drawing)) == taken(Drawing())
    assert len(drawing.made) == STEPS


@pytest.mark.usefixtures("two_processors")
def test_the_next_batch_is_there_before_it_is_asked_for() -> None:
    drawing = Drawing()
    ahead = DrawnAhead(drawing)
    ahead(3, generator(0))
    finish(ahead)
    assert len(drawing.made) == 2
    second = drawing.made[1]
    assert ahead(3, generator(1)) is second


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize(("size", "step"), [(4, 1), (3, 3)], ids=["size", "step"])
def test_what_was_not_foreseen_is_drawn_as_asked(size: int, step: int) -> None:
    ahead = DrawnAhead(Drawing())
    ahead(3, generator(0))
    own, plain = generator(step), generator(step)
    assert np.array_equal(ahead(size, own), Drawing()(size, plain))
    assert own.random() == plain.random()


@pytest.mark.usefixtures("two_processors")
def test_an_error_is_raised_in_its_own_turn() -> None:
    ahead = DrawnAhead(Drawing(failing=1))
    ahead(3, generator(0))
    finish(ahead)
    with pytest.raises(OSError, match="no such case"):
        ahead(3, generator(1))


@pytest.mark.usefixtures("two_processors")
def test_nothing_is_drawn_after_the_last_batch() -> None:
    drawing = Drawing()
    ahead = DrawnAhead(drawing)
    ahead(3, generator(STEPS - 1))
    finish(ahead)
    assert len(drawing.made) == 1


def test_one_processor_draws_nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "available_threads", lambda: 1)
    drawing = Drawing()
    DrawnAhead(drawing)(3, generator(0))
    assert len(drawing.made) == 1


def test_numbers_are_those_of_a_plain_generator() -> None:
    assert BatchGenerator([1, 2, 3]).random() == np.random.default_rng([1, 2, 3]).random()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_stage_tells_each_batch_which_one_follows(tmp_path: Path, accumulate: int) -> None:
    began, foreseen = list[Mapping[str, object]](), list[Mapping[str, object] | None]()

    def loss(module: nn.Module, step: int, own: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        assert isinstance(own, BatchGenerator)
        began.append(own.bit_generator.state)
        foreseen.append(None if own.following is None else own.following().bit_generator.state)
        return module(torch.zeros(1, 3)).sum(), {}

    config = StageConfig(steps=3, batch_size=1, learning_rate=0.01, warmup_steps=1, weight_decay=0.0, ema_decay=0.9)
    run = StageRun(Fabric(accelerator="cpu", devices=1), tmp_path, 3, lambda *_: None, save_seconds=100.0)
    train_stage(replace(run, accumulate=accumulate), "denoiser", nn.Linear(3, 2), loss, config)
    assert len(began) == 3 * accumulate
    assert foreseen == [*began[1:], None]


def test_a_tensor_stays_what_it_is_on_the_cpu() -> None:
    tensor = torch.arange(3)
    assert to_device(tensor, torch.device("cpu")) is tensor
