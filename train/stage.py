"""One optimisation stage: steps, EMA, clipping, exact resume, metrics."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW

from ..engine.errors import InvalidInputError
from .checkpoint import STAGES, read_json, read_tensors, weights_path, write_json, write_tensors
from .config import StageConfig

StepLoss = Callable[[nn.Module, int, np.random.Generator], tuple[Tensor, Mapping[str, Tensor | float]]]
Report = Callable[[str, int, int, Mapping[str, float]], None]  # stage, step, steps, metrics
CLIP_NORM = 1.0
DECAY_SHARE = 0.3  # of the steps, at the end, over which the learning rate falls to zero


@dataclass(frozen=True)
class StageRun:
    """Where and how a stage runs, beside its own configuration."""

    fabric: Fabric
    directory: Path  # the training directory; the stage keeps its files in a folder of its name
    seed: int
    report: Report
    save_seconds: float = 120.0  # at most this much work is lost by a kill
    log_every: int = 20


def step_generator(seed: int, stage: str, step: int) -> np.random.Generator:
    """Randomness of one step as a function of run seed, stage and step alone, so that a resumed run repeats it."""
    torch.manual_seed(int(np.random.SeedSequence([seed, STAGES.index(stage), step, 1]).generate_state(1)[0]))
    return np.random.default_rng([seed, STAGES.index(stage), step])


def learning_rate(config: StageConfig, step: int) -> float:
    """Linear warm-up, then constant, then linear to zero over the last 30 % of the steps."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    fall = min(1.0, (config.steps - step) / max(1.0, DECAY_SHARE * config.steps))
    return config.learning_rate * warm * fall


def train_stage(run: StageRun, stage: str, module: nn.Module, step_loss: StepLoss, config: StageConfig) -> nn.Module:
    """Train `module` for `config.steps` steps, going on from the last checkpoint, and return its EMA.

    Args:
        run: device, directory, seed and where to report.
        stage: its name, which is also its folder.
        module: the network; its parameters are trained in place.
        step_loss: (module, step, generator) -> loss and what to log.
        config: optimisation.

    Raises:
        InvalidInputError: the checkpoint does not fit, or the loss is no longer finite.
    """
    folder = run.directory / stage
    folder.mkdir(parents=True, exist_ok=True)
    ema = copy.deepcopy(module).requires_grad_(False)
    optimizer = AdamW(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99))
    start = _resume(folder, module, ema, optimizer, run.seed)
    ema = ema.to(run.fabric.device)
    wrapped, optimizer = run.fabric.setup(module, optimizer)
    if hasattr(module, "loss"):
        wrapped.mark_forward_method("loss")
    wrapped.train()
    saved = time.monotonic()
    for step in range(start, config.steps):
        generator = step_generator(run.seed, stage, step * run.fabric.world_size + run.fabric.global_rank)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        loss, metrics = step_loss(wrapped, step, generator)
        if not torch.isfinite(loss):
            raise InvalidInputError(
                f"{folder}: loss is not finite at step {step}; lower stages.{stage}.learning_rate and resume"
            )
        run.fabric.backward(loss)
        run.fabric.clip_gradients(wrapped, optimizer, max_norm=CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _update_ema(ema, module, min(config.ema_decay, (step + 1) / (step + 10)))
        if step % run.log_every == 0 or step + 1 == config.steps:
            _log(
                run,
                stage,
                step,
                config.steps,
                {
                    "loss": loss.item(),
                    **{k: float(v.detach() if isinstance(v, Tensor) else v) for k, v in metrics.items()},
                },
            )
        if time.monotonic() - saved > run.save_seconds and run.fabric.is_global_zero:
            _save(folder, step + 1, module, ema, optimizer, run.seed)
            saved = time.monotonic()
    if run.fabric.is_global_zero and start < config.steps:
        _save(folder, config.steps, module, ema, optimizer, run.seed)
    run.fabric.barrier()
    return ema.eval()


def finished(directory: Path, stage: str, config: StageConfig) -> bool:
    """Whether a stage has all its steps behind it."""
    path = directory / stage / "state.json"
    return (
        path.is_file() and weights_path(directory, stage).is_file() and read_json(path).get("step", 0) >= config.steps
    )


@torch.no_grad()
def _update_ema(ema: nn.Module, module: nn.Module, decay: float) -> None:
    for target, source in zip(ema.parameters(), module.parameters(), strict=True):
        target.lerp_(source, 1.0 - decay)
    for target, source in zip(ema.buffers(), module.buffers(), strict=True):
        target.copy_(source)


def _save(
    folder: Path, step: int, module: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, seed: int
) -> None:
    state = optimizer.state_dict()["state"]
    moments = {f"optimizer.{i}.{k}": v for i, entry in state.items() for k, v in entry.items()}
    weights = {f"module.{k}": v for k, v in module.state_dict().items()}
    averaged = {f"ema.{k}": v for k, v in ema.state_dict().items()}
    name = f"state-{step}.safetensors"
    write_tensors(folder / name, {**moments, **weights, **averaged})
    write_tensors(weights_path(folder.parent, folder.name), ema.state_dict())
    write_json(folder / "state.json", {"step": step, "seed": seed, "tensors": name})
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink()


def _resume(folder: Path, module: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> int:
    if not (folder / "state.json").is_file():
        return 0
    state = read_json(folder / "state.json")
    if state["seed"] != seed:
        raise InvalidInputError(
            f"{folder}: was trained with seed {state['seed']}, not {seed}; use that seed or another directory"
        )
    tensors = read_tensors(folder / state["tensors"])

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    try:
        module.load_state_dict(part("module."))
        ema.load_state_dict(part("ema."))
    except RuntimeError as error:
        raise InvalidInputError(f"{folder / state['tensors']}: does not fit this configuration: {error}") from error
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        index, name = key.split(".", 1)
        entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(state["step"])


def _log(run: StageRun, stage: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
    if not run.fabric.is_global_zero:
        return
    line = {"stage": stage, "step": step, **metrics}
    with (run.directory / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(line) + "\n")
    run.report(stage, step + 1, steps, metrics)
