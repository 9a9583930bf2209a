"""One optimisation stage: steps, EMA, clipping, exact resume, metrics."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..engine.errors import InvalidInputError
from ..engine.files import sha256_file
from .checkpoint import STAGES, read_tensors, weights_path, write_tensors
from .config import StageConfig
from .interrupt import held_interrupts
from .lineage import EarlierSettings, Origin, StageRecord, new_record, read_record, write_record
from .logbook import Picture, open_logbook
from .masters import MasterWeights

StepLoss = Callable[[nn.Module, int, np.random.Generator], tuple[Tensor, Mapping[str, Tensor | float]]]
Preview = Callable[[nn.Module], Picture]  # EMA -> what it makes
HeldOut = Callable[[nn.Module], Mapping[str, float]]  # EMA -> its figures on held-out cases
Finish = Callable[[nn.Module], Mapping[str, Tensor]]  # EMA -> the tensors of the finished stage
Report = Callable[[str, int, int, Mapping[str, float]], None]  # stage, step, steps, metrics
CLIP_NORM = 1.0
HELD_OUT_CHECKS = 20  # a stage
DECAY_SHARE = 0.3  # of the steps, at the end, over which the learning rate falls to zero


@dataclass(frozen=True)
class StageRun:
    """Where and how a stage runs, beside its own configuration."""

    fabric: Fabric
    directory: Path  # the training directory; the stage keeps its files in a folder of its name
    seed: int
    report: Report
    cohort: str | None = None  # digest of what it trains on (system.cohort_digest)
    save_seconds: float = 120.0  # at most this much work is lost by a kill
    log_every: int = 20
    previews: bool = True
    half_weights: bool = False  # bfloat16 weights with float32 masters; one process


def step_generator(seed: int, stage: str, step: int) -> np.random.Generator:
    """Randomness of one step as a function of run seed, stage and step alone, so that a resumed run repeats it."""
    torch.manual_seed(int(np.random.SeedSequence([seed, STAGES.index(stage), step, 1]).generate_state(1)[0]))
    return np.random.default_rng([seed, STAGES.index(stage), step])


def learning_rate(config: StageConfig, step: int) -> float:
    """Linear warm-up, then constant, then linear to zero over the last 30 % of the steps."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    fall = min(1.0, (config.steps - step) / max(1.0, DECAY_SHARE * config.steps))
    return config.learning_rate * warm * fall


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
    """Train `module` for `config.steps` steps, going on from the last checkpoint, and return its EMA.

    The stage is finished in one move at the end: its weights (what `finish` makes of the EMA) and its record.

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
        InvalidInputError: the checkpoint does not fit, or the loss is no longer finite.
        KeyboardInterrupt: after an interrupt.
    """
    folder = run.directory / stage
    folder.mkdir(parents=True, exist_ok=True)
    ema = copy.deepcopy(module).requires_grad_(False).eval()
    optimizer = AdamW(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99))
    state = StageState(run, stage, origin or Origin())
    start = state.load(module, ema, optimizer)
    ema = ema.to(run.fabric.device)
    masters = MasterWeights(module) if run.half_weights else None
    wrapped, optimizer = run.fabric.setup(module, optimizer)
    if hasattr(module, "loss"):
        wrapped.mark_forward_method("loss")
    wrapped.train()
    shown = preview_steps(config.steps) if preview is not None and run.previews else frozenset[int]()
    checked = held_out_steps(config.steps) if held_out is not None else frozenset[int]()
    writes, alone = run.fabric.is_global_zero, run.fabric.world_size == 1
    saved = time.monotonic()
    with open_logbook(run.directory, stage, start, writes) as book, held_interrupts(alone) as interrupted:
        for step in range(start, config.steps):
            metrics = _train_step(state, step, wrapped, optimizer, step_loss, config, masters)
            _update_ema(ema, module, min(config.ema_decay, (step + 1) / (step + 10)))
            done = step + 1
            if book is not None and (step % run.log_every == 0 or done == config.steps or done in checked):
                values = {name: float(value) for name, value in metrics.items()}
                values |= held_out(ema) if held_out is not None and done in checked else {}
                book.metrics(step, values)
                run.report(stage, done, config.steps, values)
            due = done in shown or done == config.steps or time.monotonic() - saved > run.save_seconds
            if writes and (due or interrupted.is_set()):
                _require_finite(state, step, module)
                state.save(done, module, ema, optimizer)
                saved = time.monotonic()
            if interrupted.is_set():
                raise KeyboardInterrupt
            if book is not None and preview is not None and done in shown:
                book.preview(done, preview(ema))
    tensors = ema.state_dict() if finish is None else finish(ema)
    if writes:
        complete_stage(run.directory, stage, tensors, state.record)
    run.fabric.barrier()
    return ema


def _train_step(
    state: StageState,
    step: int,
    wrapped: nn.Module,
    optimizer: Any,
    step_loss: StepLoss,
    config: StageConfig,
    masters: MasterWeights | None,
) -> dict[str, Tensor | float]:
    """Update the weights once; what to log."""
    run, stage = state.run, state.stage
    generator = step_generator(run.seed, stage, step * run.fabric.world_size + run.fabric.global_rank)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    loss, metrics = step_loss(wrapped if masters is None else masters.working, step, generator)
    if not torch.isfinite(loss):
        raise _diverged(state, step, state.give_up(step) if run.fabric.is_global_zero else step)
    run.fabric.backward(loss)
    if masters is not None:
        masters.take_gradients()
    run.fabric.clip_gradients(wrapped, optimizer, max_norm=CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    if masters is not None:
        masters.give_weights()
    return {
        "loss": loss.detach(),
        **{name: value.detach() if isinstance(value, Tensor) else value for name, value in metrics.items()},
    }


def _require_finite(state: StageState, step: int, module: nn.Module) -> None:
    """Raise InvalidInputError where a weight is not finite: such a state is never saved."""
    if not all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters()):
        raise _diverged(state, step, state.record.step)


def _diverged(state: StageState, step: int, back: int) -> InvalidInputError:
    return InvalidInputError(
        f"{state.folder}: loss or weights are not finite at step {step}; lower stages.{state.stage}.learning_rate and "
        f"give the same command: it goes on from step {back}"
    )


@torch.no_grad()
def _update_ema(ema: nn.Module, module: nn.Module, decay: float) -> None:
    """Move the parameters of `ema` by 1 - decay towards those of `module`; buffers are taken over."""
    get_ema_multi_avg_fn(decay)([*ema.parameters()], [*module.parameters()], 0)
    for target, source in zip(ema.buffers(), module.buffers(), strict=True):
        target.copy_(source)


def complete_stage(directory: Path, stage: str, tensors: Mapping[str, Tensor], record: StageRecord) -> None:
    """Store a stage's final weights, then, in one replacement of its record, that it is finished with them."""
    (directory / stage).mkdir(parents=True, exist_ok=True)
    path = weights_path(directory, stage)
    write_tensors(path, tensors)
    write_record(directory, stage, replace(record, finished=True, weights=sha256_file(path)))


class StageState:
    """A stage's saved state: what to resume from, and the state before it, whose loss is known to be finite."""

    def __init__(self, run: StageRun, stage: str, origin: Origin) -> None:
        self.run, self.stage = run, stage
        self.folder = run.directory / stage
        kept = read_record(run.directory, stage)
        self.record = new_record(origin, run.seed, run.cohort) if kept is None else _continued(kept, origin)

    def load(self, module: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Put the saved state into place; the step to go on with.

        Raises:
            InvalidInputError: it is of another seed, or does not fit.
        """
        record = self.record
        if record.seed != self.run.seed:
            raise InvalidInputError(
                f"{self.folder}: was trained with seed {record.seed}, not {self.run.seed}; "
                "use that seed or another directory"
            )
        if record.tensors is None:
            return 0
        _restore(self.folder / record.tensors, module, ema, optimizer)
        return record.step

    def save(self, step: int, module: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Store the state after `step` steps; the one before it stays until the next."""
        state = optimizer.state_dict()["state"]
        moments = {f"optimizer.{i}.{k}": v for i, entry in state.items() for k, v in entry.items()}
        weights = {f"module.{k}": v for k, v in module.state_dict().items()}
        averaged = {f"ema.{k}": v for k, v in ema.state_dict().items()}
        name, before = f"state-{step}.safetensors", self.record
        write_tensors(self.folder / name, {**moments, **weights, **averaged})
        if before.tensors != name:
            before = replace(before, sound=before.tensors, sound_step=before.step)
        self._keep(replace(before, step=step, tensors=name, finished=False, weights=None))
        write_tensors(weights_path(self.run.directory, self.stage), ema.state_dict())

    def give_up(self, step: int) -> int:
        """Forget a state whose own loss, at `step`, was not finite; the step that training goes back to."""
        if self.record.step == step:
            self._keep(replace(self.record, step=self.record.sound_step, tensors=self.record.sound, sound=None))
        return self.record.step

    def _keep(self, record: StageRecord) -> None:
        write_record(self.run.directory, self.stage, record)
        self.record = record
        for old in self.folder.glob("state-*.safetensors"):
            if old.name not in (record.tensors, record.sound):
                old.unlink()


def _continued(record: StageRecord, origin: Origin) -> StageRecord:
    """A record that is gone on with; settings that were changed meanwhile are kept beside the new ones."""
    if record.settings == origin.settings or not origin.settings:
        return record
    earlier = (*record.earlier_settings, EarlierSettings(record.step, record.settings))
    return replace(record, settings=origin.settings, earlier_settings=earlier)


def _restore(path: Path, module: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    tensors = read_tensors(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    try:
        module.load_state_dict(part("module."))
        ema.load_state_dict(part("ema."))
    except RuntimeError as error:
        raise InvalidInputError(f"{path}: does not fit this configuration: {error}") from error
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
