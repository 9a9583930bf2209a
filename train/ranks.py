"""Processes that train together: on how many machines, and why one of them ended."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from ..engine.errors import SbldmError


def machines() -> int:
    """Machines of this training, as Slurm's srun or torchrun say it; 1 where neither started this process."""
    if TorchElasticEnvironment.detect():
        return int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    if SLURMEnvironment.detect():
        return int(os.environ.get("SLURM_NNODES", "1"))
    return 1


class LastWords:
    """Leaves in the training directory why a process of several ended, for those that find it gone."""

    def __init__(self, directory: Path, rank: int, processes: int) -> None:
        self.directory, self.rank, self.processes = directory, rank, processes

    def __enter__(self) -> LastWords:
        with suppress(OSError):  # what cannot be written here is told by who writes
            for left in self.directory.glob(".rank-*.ended"):
                if self.processes == 1 or left == self._path(self.rank):
                    left.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None or self.processes == 1:
            return
        with suppress(OSError):  # the error itself is what counts
            self.directory.mkdir(parents=True, exist_ok=True)  # faulty data end a process before it writes anything
            self._path(self.rank).write_text(_said(error), encoding="utf-8")

    def of_others(self) -> list[str]:
        """`process RANK: why` of each other process that left its last words."""
        left = [(rank, self._path(rank)) for rank in range(self.processes) if rank != self.rank]
        return [f"process {rank}: {path.read_text(encoding='utf-8')}" for rank, path in left if path.is_file()]

    def _path(self, rank: int) -> Path:
        return self.directory / f".rank-{rank}.ended"


def _said(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) if isinstance(error, SbldmError) else f"{type(error).__name__}: {error}"
