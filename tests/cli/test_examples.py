"""The example that trains bundles gives commands that the command line takes, and goes on where it was."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

pytest.importorskip("torch")

from sbldm.cli.main import app, main

SCRIPT = Path(__file__).parents[2] / "examples" / "train_bundles.sh"
STAND_IN = """#!/bin/bash
printf '%q ' "$@" >> "$LOG"; echo >> "$LOG"
while [ $# -gt 0 ]; do case $1 in --out) mkdir -p "$2";; esac; shift; done
"""


def commands(folder: Path, **environment: str) -> list[list[str]]:
    """What the script asks of `sbldm-engine`, which makes nothing but its --out."""
    stand_in = folder / "bin" / "sbldm-engine"
    stand_in.parent.mkdir(exist_ok=True)
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    log = folder / "log"
    log.write_text("")
    told = {"PATH": f"{stand_in.parent}:{os.environ['PATH']}", "LOG": str(log), "WORK": str(folder / "runs")}
    subprocess.run(["bash", SCRIPT], check=True, env={**told, **environment}, timeout=60)
    return [shlex.split(line) for line in log.read_text().splitlines()]


def is_understood(line: list[str]) -> bool:
    """Whether a command takes these options; nothing is run."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("sbldm-engine", [line[0]])
    return group.get_command(context, line[0]).make_context(line[0], line[1:]) is not None


def test_phantoms_alone_make_a_bundle_without_a_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = commands(tmp_path)
    assert [line[0] for line in made] == ["phantom", "train", "export"]
    assert all(is_understood(line) for line in made)
    assert not {"--masks", "--start-from", "--add-phantoms"} & set(made[1])
    assert main([*made[1], "--dry-run"]) == 0
    assert "stage denoiser" in capsys.readouterr().out
    assert made[2][made[2].index("--source") + 1] == "phantom"
    assert [line[0] for line in commands(tmp_path)] == ["train"]


def test_real_scans_begin_where_the_phantoms_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = commands(tmp_path, REAL="my scans", MASKS="more masks.npz")
    assert [line[0] for line in made] == ["phantom", "train", "export", "train", "export"]
    assert all(is_understood(line) for line in made)
    second = made[3]
    assert second[second.index("--start-from") + 1] == made[1][made[1].index("--out") + 1]
    assert second[second.index("--data") + 1] == "my scans"
    assert second[second.index("--masks") + 1] == "more masks.npz"
    assert main([*second, "--dry-run"]) == 0
    assert "stage autoencoder: 8000 steps" in capsys.readouterr().out
