"""One optimisation stage: steps, averages, clipping, exact resume, validation, metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from ..engine.errors import InvalidInputError
from ..engine.files import sha256_file
from .averages import Averages, HeldOut
from .checkpoint import STAGES, weights_path, write_tensors
from .config import StageConfig
from .interrupt import held_interrupts
from .lineage import Origin, StageRecord, write_record
from .logbook import Picture, open_logbook
from .masters import MasterWeights
from .prefetch import BatchGenerator
from .stage_state import StageRun, StageState

StepLoss = Callable[[nn.Module, int, np.random.Generator], tuple[Tensor, Mapping[str, Tensor | float]]]
Preview = Callable[[nn.Module], Picture]  # EMA -> what it makes
Finish = Callable[[nn.Module], Mapping[str, Tensor]]  # EMA -> the tensors of the finished stage
CLIP_NORM = 1.0
HELD_OUT_CHECKS = 20  # a stage
DECAY_SHARE = 0.3  # of the steps, at the end, over which the learning rate falls to zero


def step_generator(seed: int, stage: str, step: int, following: int | None = None) -> BatchGenerator:
    """Randomness of one step as a function of run seed, stage and step alone, so that a resumed run repeats it.

    `following` is the step after it in this process, whose batch may be drawn meanwhile.
    """
    key = [seed, STAGES.index(stage)]
    torch.manual_seed(int(np.random.SeedSequence([*key, step, 1]).generate_state(1)[0]))
    return BatchGenerator([*key, step], None if following is None else lambda: BatchGenerator([*key, following]))


def learning_rate(config: StageConfig, step: int) -> float:
    """Linear warm-up, then constant, then linear to zero over the last 30 % of the steps."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    fall = min(1.0, (config.steps - step) / max(1.0, DECAY_SHARE * config.steps))
    return config.learning_rate * warm * fall


def rate_of_batches(batches: int) -> float:
    """What the learning rate is multiplied by where a step sees so many batches: the square root, Adam's rule.

    Malladi et al., "On the SDEs and scaling rules for adaptive gradient algorithms", NeurIPS 2022.
    """
    return math.sqrt(batches)


def preview_steps(steps: int) -> frozenset[int]:
    """After how many steps a stage draws a preview: at each quarter and at the end."""
    return frozenset(math.ceil(steps * quarter / 4) for quarter in (1, 2, 3, 4))


def held_out_steps(steps: int) -> frozenset[int]:
    """After how many steps a stage looks at held-out cases: `HELD_OUT_CHECKS` times, evenly, and at the end."""
    return frozenset(math.ceil(steps * part / HELD_OUT_CHECKS) for part in range(1, HELD_OUT_CHECKS + 1))


def train_stage(
    run: StageRun,
    stage: str,
    module: nn.Module,
    step_loss: StepLoss,
    config: StageConfig,
    preview: Preview | None = None,
    *,
    held_out: HeldOut | None = None,
    origin: Origin | None = None,
    finish: Finish | None = None,
) -> nn.Module:
    """Train `module` for `config.steps` steps, going on from the last checkpoint, and return the average that is kept.

    That is the usual moving average at the end or, with `run.keep_best`, the best of several at any look at held-out
    cases. The stage is finished in one move at the end: its weights (what `finish` makes of them) and its record.

    An interrupt (SIGINT, SIGTERM) ends the step that runs, saves and raises KeyboardInterrupt; with several processes
    it is raised at once, and the last checkpoint counts.

    Args:
        run: device, directory, seed and where to report.
        stage: its name, which is also its folder.
        module: the network; its parameters are trained in place.
        step_loss: (module, step, generator) -> loss and what to log.
        config: optimisation.
        preview: draws what the EMA does, at `preview_steps`; must leave its argument as it is.
        held_out: what the EMA does on held-out cases, at `held_out_steps`; must leave its argument as it is.
        origin: what the stage is made from, for its record.
        finish: measures what belongs to the weights and gives the tensors to store; the EMA's own by default.

    Raises:
        InvalidInputError: the checkpoint or the number of devices does not fit, or the loss is no longer finite.
        KeyboardInterrupt: after an interrupt.
    """
    (run.directory / stage).mkdir(parents=True, exist_ok=True)
    averages = Averages(module, config.ema_decay, several=run.keep_best and held_out is not None)
    state = StageState(run, stage, origin or Origin())
    steps, start = resumed(state, module, averages, step_loss, config)
    shown = preview_steps(config.steps) if preview is not None and run.previews else frozenset[int]()
    checked = held_out_steps(config.steps) if held_out is not None else frozenset[int]()
    writes, alone = run.fabric.is_global_zero, run.fabric.world_size == 1
    saved = time.monotonic()
    with open_logbook(run.directory, stage, start, writes) as book, held_interrupts(alone) as interrupted:
        for step in range(start, config.steps if not state.record.stopped else start):
            steps.make(step)
            averages.update(module, step)
            done = step + 1
            last = done == config.steps
            if step % run.log_every == 0 or last or done in checked:
                values = steps.told()
                if writes and held_out is not None and done in checked:
                    values |= state.look(done, averages, held_out)
                if done in checked and run.patience:
                    last = state.stop_if_worn_out(done, checked) or last
                if book is not None:
                    book.metrics(step, values)
                    run.report(stage, done, config.steps, values)
            due = done in shown or last or state.found_better or time.monotonic() - saved > run.save_seconds
            if writes and (due or interrupted.is_set()):
                steps.require_finite()
                state.save(done, module, averages, steps.optimizer)
                saved = time.monotonic()
            if interrupted.is_set():
                raise KeyboardInterrupt
            if book is not None and preview is not None and done in shown:
                book.preview(done, preview(averages.usual))
            if last:
                break
    kept = state.kept(averages)
    tensors = kept.state_dict() if finish is None else finish(kept)
    if writes:
        complete_stage(run.directory, stage, tensors, state.record)
    run.fabric.barrier()
    return kept


def resumed(
    state: StageState, module: nn.Module, averages: Averages, step_loss: StepLoss, config: StageConfig
) -> tuple[StepMaker, int]:
    """What makes the steps, on the run's device as the last checkpoint left it, and the first step to make.

    Raises:
        InvalidInputError: the checkpoint or the number of devices does not fit.
    """
    run = state.run
    on_gpu = run.fabric.device.type == "cuda"
    optimizer = AdamW(
        module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99),
        foreach=not on_gpu, fused=on_gpu,
    )  # fmt: skip
    start = state.load(module, averages, optimizer)
    averages.to(run.fabric.device)
    masters = MasterWeights(module) if run.half_weights else None
    used = cast(nn.Module, torch.compile(module)) if run.compile else module
    wrapped, optimizer = run.fabric.setup(used, optimizer)
    if hasattr(module, "loss"):
        wrapped.mark_forward_method("loss")
    wrapped.train()
    return StepMaker(state, config, wrapped, optimizer, step_loss, masters), start


class StepMaker:
    """Makes the steps of a stage: each of `batches` batches, shared evenly among the devices.

    Batch m of step s draws from a generator of (seed, stage, s batches + m), so that it is the same batch on however
    many devices. The mean of the gradients moves the weights. Nothing is read back from the device between two looks.
    """

    def __init__(
        self,
        state: StageState,
        config: StageConfig,
        wrapped: nn.Module,
        optimizer: Any,
        step_loss: StepLoss,
        masters: MasterWeights | None,
    ) -> None:
        self.state, self.config, self.wrapped, self.optimizer = state, config, wrapped, optimizer
        self.step_loss, self.masters, self.fabric = step_loss, masters, state.run.fabric
        self.batches = state.record.batches or 1
        self.each = self.batches // self.fabric.world_size  # of a step on this device
        self.step = 0  # the last one that was made
        self._terms: dict[str, Tensor | float] = {}
        self._window = torch.zeros(2, device=self.fabric.device)  # sum of losses since the last look, steps
        self._unsound = torch.full((), -1, device=self.fabric.device)  # first step whose loss was not finite

    def make(self, step: int) -> None:
        """Update the weights once."""
        self.step = step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step) * rate_of_batches(self.batches)
        terms: dict[str, Tensor | float] = {}
        for number in range(self.each):
            for name, value in self._batch(step, number).items():
                terms[name] = terms.get(name, 0.0) + value / self.each
        self._terms = terms
        loss = torch.as_tensor(terms["loss"])
        self._window += torch.stack([loss.float(), torch.ones_like(loss, dtype=torch.float32)])
        self._unsound = torch.where((self._unsound < 0) & ~torch.isfinite(loss), step, self._unsound)
        if self.fabric.device.type == "cpu":  # where a look costs nothing
            self._require_finite_loss()
        self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=CLIP_NORM, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.masters is not None:
            self.masters.give_weights()

    def _batch(self, step: int, number: int) -> dict[str, Tensor | float]:
        """Gradients of one batch, added to those that are there; what to log."""
        run, stage = self.state.run, self.state.stage
        generator = step_generator(run.seed, stage, self._place(step, number), self._following(step, number))
        with self.fabric.no_backward_sync(self.wrapped, enabled=number + 1 < self.each):  # pyright: ignore[reportArgumentType]
            module = self.wrapped if self.masters is None else self.masters.working
            loss, metrics = self.step_loss(module, step, generator)
            self.fabric.backward(loss / self.each if self.each > 1 else loss)
        if self.masters is not None:
            self.masters.take_gradients()
        return {name: v.detach() if isinstance(v, Tensor) else v for name, v in {"loss": loss, **metrics}.items()}

    def _place(self, step: int, number: int) -> int:
        """Which of the stage's batches this is."""
        return step * self.batches + self.fabric.global_rank * self.each + number

    def _following(self, step: int, number: int) -> int | None:
        """Which batch this process makes next; None after the last one."""
        if number + 1 < self.each:
            return self._place(step, number + 1)
        return self._place(step + 1, 0) if step + 1 < self.config.steps else None

    def told(self) -> dict[str, float]:
        """What to log: loss and terms of the last step, `mean_loss` of the steps since this was called before.

        Of all devices where there are several, each of which has to call it.

        Raises:
            InvalidInputError: a loss was not finite.
        """
        self._require_finite_loss()
        values = {name: float(value) for name, value in self._terms.items()}
        values["mean_loss"] = float(self._window[0] / self._window[1])
        self._window.zero_()
        if self.fabric.world_size > 1:
            joint = self.fabric.all_reduce(torch.tensor(list(values.values()), device=self._window.device))
            values = dict(zip(values, torch.as_tensor(joint).tolist(), strict=True))
        return values

    def require_finite(self) -> None:
        """Raise InvalidInputError where a loss or weight was not finite: such a state is never saved."""
        self._require_finite_loss()
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.wrapped.parameters()):
            raise self._diverged(self.step, self.state.record.step)

    def _require_finite_loss(self) -> None:
        step = int(self._unsound)
        if step >= 0:
            raise self._diverged(step, self.state.give_up(step) if self.fabric.is_global_zero else step)

    def _diverged(self, step: int, back: int) -> InvalidInputError:
        return InvalidInputError(
            f"{self.state.folder}: loss or weights are not finite at step {step}; lower "
            f"stages.{self.state.stage}.learning_rate and give the same command: it goes on from step {back}"
        )


def complete_stage(directory: Path, stage: str, tensors: Mapping[str, Tensor], record: StageRecord) -> None:
    """Store a stage's final weights, then, in one replacement of its record, that it is finished with them."""
    (directory / stage).mkdir(parents=True, exist_ok=True)
    path = weights_path(directory, stage)
    write_tensors(path, tensors)
    write_record(directory, stage, replace(record, finished=True, weights=sha256_file(path)))
