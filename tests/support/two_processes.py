"""A stage trained by two processes on this CPU, which a server forks: PyTorch is imported once for all of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from sbldm.engine.errors import InvalidInputError, SbldmError
from sbldm.train.config import StageConfig
from sbldm.train.faults import machine_faults
from sbldm.train.ranks import LastWords
from sbldm.train.stage import StageRun, train_stage
from torch import Tensor, nn

CONFIG = StageConfig(steps=6, batch_size=4, learning_rate=0.01, warmup_steps=2, weight_decay=0.01, ema_decay=0.9)
SEED, STAGE = 3, "denoiser"


def a_module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def noisy_loss(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
    x = torch.from_numpy(generator.normal(size=(4, 3)).astype(np.float32))
    return (module(x) - torch.randn(4, 2)).square().mean(), {}


def train(fabric: Fabric, directory: Path, accumulate: int = 1, ends: tuple[int, int, str] | None = None) -> None:
    """Train in `directory`; `ends` is the process, the step and how it ends there: killed, or with a message."""

    def loss(module: nn.Module, step: int, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if ends is not None and ends[:2] == (fabric.global_rank, step):
            if ends[2] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise InvalidInputError(ends[2])
        return noisy_loss(module, step, generator)

    run = StageRun(
        fabric, directory, SEED, lambda *_: None, save_seconds=0.0, log_every=1, accumulate=accumulate, previews=False
    )
    train_stage(run, STAGE, a_module(), loss, CONFIG)


def by_two(directory: Path, ends: tuple[int, int, str] | None = None) -> tuple[list[int | None], list[str]]:
    """Exit codes of two processes that train, and what each said of its error; those that hang are ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    directory.mkdir(exist_ok=True)
    processes = [context.Process(target=_one, args=(rank, port, directory, ends)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(540)
        process.kill()
    told = [directory / f"error-{rank}" for rank in (0, 1)]
    return [process.exitcode for process in processes], [p.read_text() if p.is_file() else "" for p in told]


def _one(rank: int, port: int, directory: Path, ends: tuple[int, int, str] | None) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank),
                   "NODE_RANK": "0"}  # fmt: skip
    torch.set_num_threads(1)
    (directory / f"error-{rank}").unlink(missing_ok=True)
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision="32-true")
    fabric.launch()
    try:
        with machine_faults(LastWords(directory, rank, 2)):
            train(fabric, directory, ends=ends)
    except SbldmError as error:
        (directory / f"error-{rank}").write_text(str(error))
        raise SystemExit(error.exit_code) from None
