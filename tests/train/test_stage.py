"""A stage: exact resume, refusal of what does not fit, the learning rate."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from numpy.typing import NDArray
from PIL import Image
from sbldm.engine.errors import InvalidInputError
from sbldm.train.checkpoint import read_tensors, weights_path
from sbldm.train.config import StageConfig
from sbldm.train.guards import refuse_another_cohort
from sbldm.train.lineage import StageRecord, read_record
from sbldm.train.stage import StageRun, learning_rate, preview_steps, step_generator, train_stage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
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


def record_of(directory: Path) -> StageRecord:
    record = read_record(directory, "denoiser")
    assert record is not None
    return record


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
    assert not record_of(killed).finished
    train_stage(a_run(killed), "denoiser", a_module(), noisy_loss, CONFIG)
    assert record_of(killed).finished
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


def test_advice_after_a_loss_that_is_not_finite_can_be_followed(tmp_path: Path) -> None:
    """The state saved just before belongs to weights that are no good: training goes back to the one before it."""

    def diverges(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        loss, metrics = noisy_loss(module, step, generator)
        return loss * (float("inf") if step >= 5 else 1.0), metrics

    with pytest.raises(InvalidInputError, match=r"at step 5; .*it goes on from step 4"):
        train_stage(a_run(tmp_path), "denoiser", a_module(), diverges, CONFIG)
    assert record_of(tmp_path).step == 4
    train_stage(a_run(tmp_path), "denoiser", a_module(), noisy_loss, CONFIG)
    assert record_of(tmp_path).finished


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    def poisons(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        loss, metrics = noisy_loss(module, step, generator)
        if step == 3:
            loss = loss * 1e30 * 1e9  # finite or not, its gradients are not
        return loss, metrics

    with pytest.raises(InvalidInputError, match="not finite at step 3"):
        train_stage(a_run(tmp_path), "denoiser", a_module(), poisons, CONFIG)
    for path in (tmp_path / "denoiser").glob("*.safetensors"):
        assert all(bool(torch.isfinite(tensor).all()) for tensor in read_tensors(path).values())


def test_a_first_step_that_diverges_starts_over(tmp_path: Path) -> None:
    def diverges(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        loss, metrics = noisy_loss(module, step, generator)
        return loss * (float("nan") if step == 1 else 1.0), metrics

    with pytest.raises(InvalidInputError, match="goes on from step 0"):
        train_stage(a_run(tmp_path), "denoiser", a_module(), diverges, CONFIG)
    train_stage(a_run(tmp_path), "denoiser", a_module(), noisy_loss, CONFIG)
    assert record_of(tmp_path).step == CONFIG.steps


def test_what_is_measured_at_the_end_belongs_to_the_finished_stage(tmp_path: Path) -> None:
    """A kill between the last step and what is measured after it leaves an unfinished stage, not half a one."""

    def measured(ema: nn.Module) -> dict[str, Tensor]:
        return {**ema.state_dict(), "scale": torch.full((1,), 0.25)}

    def killed(ema: nn.Module) -> dict[str, Tensor]:
        raise Killed

    with pytest.raises(Killed):
        train_stage(a_run(tmp_path), "denoiser", a_module(), noisy_loss, CONFIG, finish=killed)
    assert record_of(tmp_path).step == CONFIG.steps
    assert not record_of(tmp_path).finished
    train_stage(a_run(tmp_path), "denoiser", a_module(), noisy_loss, CONFIG, finish=measured)
    assert record_of(tmp_path).finished
    assert read_tensors(weights_path(tmp_path, "denoiser"))["scale"].item() == 0.25


def test_the_ema_is_the_weighted_mean_of_all_weights(tmp_path: Path) -> None:
    module, seen = a_module(), list[Tensor]()
    mean = module.weight.detach().clone()

    def watched(wrapped: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        seen.append(module.weight.detach().clone())
        return noisy_loss(wrapped, step, generator)

    ema = train_stage(a_run(tmp_path), "denoiser", module, watched, CONFIG)
    for step, weight in enumerate([*seen[1:], module.weight.detach()]):
        decay = min(CONFIG.ema_decay, (step + 1) / (step + 10))
        mean = decay * mean + (1 - decay) * weight
    torch.testing.assert_close(ema.weight, mean)


def test_learning_rate_rises_stays_and_falls() -> None:
    rates = [learning_rate(CONFIG, step) for step in range(CONFIG.steps)]
    assert rates[0] == pytest.approx(0.005)
    assert rates[3] == CONFIG.learning_rate
    assert all(a > b for a, b in pairwise(rates[9:]))
    assert rates[-1] > 0


def test_a_signal_saves_the_step_that_runs(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train_stage(a_run(whole), "denoiser", a_module(), noisy_loss, CONFIG)
    never = dataclasses.replace(a_run(stopped), save_seconds=1e9)
    before = signal.getsignal(signal.SIGTERM)

    def signalled(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return noisy_loss(module, step, generator)

    with pytest.raises(KeyboardInterrupt):
        train_stage(never, "denoiser", a_module(), signalled, CONFIG)
    assert signal.getsignal(signal.SIGTERM) is before
    assert json.loads((stopped / "denoiser" / "state.json").read_text())["step"] == 6
    train_stage(never, "denoiser", a_module(), noisy_loss, CONFIG)
    assert losses(stopped) == losses(whole)
    left, right = read_tensors(weights_path(stopped, "denoiser")), read_tensors(weights_path(whole, "denoiser"))
    assert all(torch.equal(left[k], right[k]) for k in right)


def test_previews_come_at_the_quarters_and_change_nothing(tmp_path: Path) -> None:
    plain, drawn = tmp_path / "plain", tmp_path / "drawn"
    train_stage(a_run(plain), "denoiser", a_module(), noisy_loss, CONFIG)

    def draw(ema: nn.Module) -> NDArray[np.uint8]:
        assert not ema.training
        return (torch.rand(8, 9, 3) * 255).byte().numpy()  # takes from the random numbers of training

    train_stage(a_run(drawn), "denoiser", a_module(), noisy_loss, CONFIG, draw)
    assert losses(drawn) == losses(plain)
    names = sorted(p.name for p in (drawn / "previews").iterdir())
    assert names == [f"denoiser-{step:06d}.png" for step in (3, 6, 9, 12)]
    assert Image.open(drawn / "previews" / names[0]).size == (9, 8)
    board = EventAccumulator(str(drawn / "tensorboard" / "denoiser")).Reload()
    assert [event.step for event in board.Images("preview")] == [2, 5, 8, 11]


def test_preview_steps_of_short_stages() -> None:
    assert preview_steps(1) == {1}
    assert preview_steps(6) == {2, 3, 5, 6}


def test_tensorboard_holds_each_step_once_after_a_resume(tmp_path: Path) -> None:
    late = dataclasses.replace(a_run(tmp_path), save_seconds=1e9)

    def dies(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        if step == 7:
            raise Killed
        return noisy_loss(module, step, generator)

    with pytest.raises(Killed):  # nothing is saved, so the steps are all made again
        train_stage(late, "denoiser", a_module(), dies, CONFIG)
    train_stage(late, "denoiser", a_module(), noisy_loss, CONFIG)
    board = EventAccumulator(str(tmp_path / "tensorboard" / "denoiser")).Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(12))
    logged = [event.value for event in board.Scalars("loss")]
    assert logged == pytest.approx(list(losses(tmp_path).values()))


def test_another_cohort_is_refused(tmp_path: Path) -> None:
    train_stage(dataclasses.replace(a_run(tmp_path), cohort="one"), "denoiser", a_module(), noisy_loss, CONFIG)
    refuse_another_cohort(tmp_path, "one")
    with pytest.raises(InvalidInputError, match=r"denoiser was trained on another cohort.*new --out"):
        refuse_another_cohort(tmp_path, "two")
    state = tmp_path / "denoiser" / "state.json"
    kept = json.loads(state.read_text())
    del kept["cohort"]
    state.write_text(json.dumps(kept))
    refuse_another_cohort(tmp_path, "two")  # stages from before it was kept


def test_batches_of_a_step_are_added_up_and_the_rate_follows_their_root(tmp_path: Path) -> None:
    """Two batches a step, by hand: the mean of their losses is one step of AdamW."""
    module, config = a_module(), dataclasses.replace(CONFIG, steps=3)
    by_hand = a_module()
    optimizer = torch.optim.AdamW(by_hand.parameters(), weight_decay=config.weight_decay, betas=(0.9, 0.99))
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 2**0.5 * learning_rate(config, step)
        parts = []
        for batch in (2 * step, 2 * step + 1):
            generator = step_generator(3, "denoiser", batch)
            parts.append(noisy_loss(by_hand, step, generator)[0])
        ((parts[0] + parts[1]) / 2).backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    train_stage(dataclasses.replace(a_run(tmp_path), accumulate=2), "denoiser", module, noisy_loss, config)
    torch.testing.assert_close(module.weight, by_hand.weight)
    assert record_of(tmp_path).batches == 2


def test_a_stage_goes_on_with_the_batches_that_it_was_begun_with(tmp_path: Path) -> None:
    def dies(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        if step == 7:
            raise Killed
        return noisy_loss(module, step, generator)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_stage(dataclasses.replace(a_run(whole), accumulate=2), "denoiser", a_module(), noisy_loss, CONFIG)
    with pytest.raises(Killed):
        train_stage(dataclasses.replace(a_run(killed), accumulate=2), "denoiser", a_module(), dies, CONFIG)
    train_stage(a_run(killed), "denoiser", a_module(), noisy_loss, CONFIG)
    assert losses(killed) == losses(whole)


def test_the_mean_loss_is_that_of_all_steps_since_the_last_look(tmp_path: Path) -> None:
    every, seldom = tmp_path / "every", tmp_path / "seldom"
    train_stage(a_run(every), "denoiser", a_module(), noisy_loss, CONFIG)
    train_stage(dataclasses.replace(a_run(seldom), log_every=4), "denoiser", a_module(), noisy_loss, CONFIG)
    lines = [json.loads(line) for line in (seldom / "metrics.jsonl").read_text().splitlines()]
    seen = losses(every)
    assert [line["step"] for line in lines] == [0, 4, 8, 11]
    assert lines[1]["mean_loss"] == pytest.approx(np.mean([seen[step] for step in (1, 2, 3, 4)]))
    assert lines[1]["loss"] == seen[4]


def falls_until(worst_after: int, looks: list[int]):
    """A held-out loss that falls with each look, and rises from one on; the shorter averages do worse."""

    def held_out(ema: nn.Module) -> dict[str, float]:
        looks.append(len(looks))
        look = (len(looks) - 1) // 3  # three averages
        return {"held_out_loss": abs(look - worst_after) + 0.1 * ((len(looks) - 1) % 3)}

    return held_out


def test_the_best_weights_on_held_out_cases_are_kept_and_a_stage_that_gets_no_better_ends(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def watched(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        return noisy_loss(module, step, generator)

    looks: list[int] = []
    best_at = falls_until(4, looks)

    def held_out(ema: nn.Module) -> dict[str, float]:
        figures = best_at(ema)
        if len(looks) == 3 * 4 + 1:
            seen.append({name: value.clone() for name, value in ema.state_dict().items()})
        return figures

    run = dataclasses.replace(a_run(tmp_path), keep_best=True, patience=3)
    train_stage(run, "denoiser", a_module(), watched, CONFIG, held_out=held_out)
    record = record_of(tmp_path)
    assert record.best is not None
    assert (record.best.step, record.best.ema_decay, record.step, record.stopped) == (5, 0.9, 8, True)
    assert record.finished
    assert record.has_ended(CONFIG.steps)
    kept = read_tensors(weights_path(tmp_path, "denoiser"))
    assert all(torch.equal(kept[name], seen[0][name]) for name in kept)
    assert [path.name for path in (tmp_path / "denoiser").glob("best-*")] == ["best-5.safetensors"]
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert {"held_out_loss", "held_out_loss_ema_0.6", "held_out_loss_ema_0"} <= line.keys()


def test_a_kill_does_not_change_which_weights_are_best(tmp_path: Path) -> None:
    def held_out(ema: nn.Module) -> dict[str, float]:
        return {"held_out_loss": float((ema.weight - 0.2).square().mean())}  # pyright: ignore[reportOperatorIssue]

    def dies(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, Mapping[str, float]]:
        if step == 7:
            raise Killed
        return noisy_loss(module, step, generator)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    best = dataclasses.replace(a_run(whole), keep_best=True, save_seconds=1e9)
    train_stage(best, "denoiser", a_module(), noisy_loss, CONFIG, held_out=held_out)
    again = dataclasses.replace(best, directory=killed)
    with pytest.raises(Killed):
        train_stage(again, "denoiser", a_module(), dies, CONFIG, held_out=held_out)
    train_stage(again, "denoiser", a_module(), noisy_loss, CONFIG, held_out=held_out)
    assert record_of(killed).best == record_of(whole).best
    left, right = read_tensors(weights_path(killed, "denoiser")), read_tensors(weights_path(whole, "denoiser"))
    assert all(torch.equal(left[k], right[k]) for k in left)
