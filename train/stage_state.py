"""Where and how a stage runs, and its saved state: what to resume from, what did best, the state before."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from ..engine.errors import InvalidInputError
from .averages import Averages, HeldOut
from .checkpoint import read_tensors, weights_path, write_tensors
from .lineage import Best, EarlierSettings, Origin, StageRecord, new_record, read_record, write_record

Report = Callable[[str, int, int, Mapping[str, float]], None]  # stage, step, steps, metrics


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
    accumulate: int = 1  # batches whose gradients a device adds up before a step
    keep_best: bool = False  # what did best on held-out cases, not what is there at the end
    patience: int = 0  # looks at held-out cases without a better one after which a stage ends; 0 never, needs keep_best
    compile: bool = False  # torch.compile


class StageState:
    """A stage's saved state: what to resume from, and the state before it, whose loss is known to be finite."""

    def __init__(self, run: StageRun, stage: str, origin: Origin) -> None:
        self.run, self.stage = run, stage
        self.folder = run.directory / stage
        kept = read_record(run.directory, stage)
        record = new_record(origin, run.seed, run.cohort) if kept is None else _continued(kept, origin)
        self.record = replace(record, batches=self._batches(record))
        self.found_better = False  # since the state was saved

    def _batches(self, record: StageRecord) -> int:
        """Batches of a step: those that the stage was begun with, on however many devices it goes on.

        Raises:
            InvalidInputError: these devices cannot share them.
        """
        devices = self.run.fabric.world_size
        if record.batches is None or record.tensors is None:
            return devices * self.run.accumulate
        if record.batches % devices:
            raise InvalidInputError(
                f"{self.folder}: was begun with {record.batches} batches a step, which {devices} devices cannot share "
                f"evenly; give --devices a divisor of {record.batches}"
            )
        return record.batches

    def load(self, module: nn.Module, averages: Averages, optimizer: torch.optim.Optimizer) -> int:
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
        _restore(self.folder / record.tensors, module, averages, optimizer)
        return record.step

    def look(self, step: int, averages: Averages, held_out: HeldOut) -> dict[str, float]:
        """Figures on held-out cases; what does better than all before is kept with the next state."""
        figures, decay, loss = averages.looked_at(held_out)
        before = self.record.best
        if self.run.keep_best and math.isfinite(loss) and (before is None or loss < before.held_out_loss):
            best = Best(step, decay, loss, f"best-{step}.safetensors")
            write_tensors(self.folder / best.tensors, averages.modules[decay].state_dict())
            self.record, self.found_better = replace(self.record, best=best), True
        return figures

    def stop_if_worn_out(self, step: int, checked: frozenset[int]) -> bool:
        """Whether the stage ends here: `run.patience` looks without a better one, as the first process sees it."""
        best = self.record.best
        waited = [at for at in checked if (0 if best is None else best.step) < at <= step]
        stopped = bool(self.run.fabric.broadcast(len(waited) >= self.run.patience))
        self.record = replace(self.record, stopped=stopped)
        return stopped

    def kept(self, averages: Averages) -> nn.Module:
        """The average that the stage ends with: the usual one, or the best."""
        best = self.record.best
        if self.run.keep_best and best is not None:
            averages.usual.load_state_dict(read_tensors(self.folder / best.tensors))
        return averages.usual

    def save(self, step: int, module: nn.Module, averages: Averages, optimizer: torch.optim.Optimizer) -> None:
        """Store the state after `step` steps; the one before it stays until the next."""
        state = optimizer.state_dict()["state"]
        moments = {f"optimizer.{i}.{k}": v for i, entry in state.items() for k, v in entry.items()}
        weights = {f"module.{k}": v for k, v in module.state_dict().items()}
        name, before = f"state-{step}.safetensors", self.record
        write_tensors(self.folder / name, {**moments, **weights, **averages.state()})
        if before.tensors != name:
            before = replace(before, sound=before.tensors, sound_step=before.step)
        self._keep(replace(before, step=step, tensors=name, finished=False, weights=None))
        write_tensors(weights_path(self.run.directory, self.stage), averages.usual.state_dict())
        self.found_better = False

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
        for old in self.folder.glob("best-*.safetensors"):
            if record.best is None or old.name != record.best.tensors:
                old.unlink()


def _continued(record: StageRecord, origin: Origin) -> StageRecord:
    """A record that is gone on with; settings that were changed meanwhile are kept beside the new ones."""
    if record.settings == origin.settings or not origin.settings:
        return record
    earlier = (*record.earlier_settings, EarlierSettings(record.step, record.settings))
    return replace(record, settings=origin.settings, earlier_settings=earlier)


def _restore(path: Path, module: nn.Module, averages: Averages, optimizer: torch.optim.Optimizer) -> None:
    tensors = read_tensors(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    try:
        module.load_state_dict(part("module."))
        averages.load(tensors)
    except RuntimeError as error:
        raise InvalidInputError(f"{path}: does not fit this configuration: {error}") from error
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
