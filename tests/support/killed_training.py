"""`sbldm-engine train` in this process, ended at any moment as a kill would end it."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sbldm.cli.main import main
from sbldm.train.stage import StageRun

WATCHED = (
    "stage.step_generator", "stage.write_tensors", "lineage.write_json", "shared_store.write_json",
    "checkpoint.write_json", "system.measure_latent_scale",
)  # fmt: skip


class Killed(BaseException):
    """Stands for kill -9: nothing of the program runs after it."""


class Moments:
    """Counts the moments of a training: before and after each step is begun, and each file is written.

    Raises Killed at moment `kill_at`.
    """

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at, self.passed = kill_at, 0

    def __call__(self) -> None:
        if self.passed == self.kill_at:
            raise Killed
        self.passed += 1

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function with a moment before and after it."""

        def watched(*arguments: Any, **named: Any) -> Any:
            self()
            result = function(*arguments, **named)
            self()
            return result

        return watched


def train(moments: Moments, data: Path, out: Path, preset: Path, *more: str) -> int | None:
    """The exit code of a training that saves every step and draws no previews; None where it was killed."""
    command = ["train", "--data", str(data), "--out", str(out), "--cache", str(data.parent / "cache")]
    command += ["--preset", str(preset), "--workers", "1", "--precision", "32-true", *more]
    with ExitStack() as stack:
        stack.enter_context(patch("sbldm.train.run.StageRun", partial(StageRun, previews=False, save_seconds=0.0)))
        for place in WATCHED:
            module, _, name = f"sbldm.train.{place}".rpartition(".")
            function = getattr(importlib.import_module(module), name)
            stack.enter_context(patch(f"{module}.{name}", moments.around(function)))
        try:
            return main(command)
        except Killed:
            return None


def sha256(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def final_weights(out: Path) -> dict[str, str]:
    """Hash of the weights of each stage of a training directory."""
    return {path.parent.name: sha256(path) for path in out.glob("*/weights.safetensors")}
