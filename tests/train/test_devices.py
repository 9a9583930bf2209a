"""Several processes, and what batch systems leave in the environment."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.errors import UsageError
from sbldm.engine.scans.options import ReadOptions
from sbldm.train.run import TrainOptions, launched

from tests.support.tiny_cohort import short_config, write_preset, write_small_cohort

SLURM = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
         "SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_NODELIST": "node1"}  # fmt: skip


def trained_by_two(folder: Path, out: str) -> tuple[dict[str, str], Counter[tuple[str, int]]]:
    """Hashes of the final weights that two processes make, and how often each step was logged."""
    script = folder / "train.py"  # what the second process is started with again
    script.write_text("from sbldm.cli.main import run\nif __name__ == '__main__':\n    run()\n", encoding="utf-8")
    command = [sys.executable, str(script), "train", "--data", str(folder / "data"), "--out", str(folder / out),
               "--cache", str(folder / "cache"), "--preset", str(folder / "short.yaml"), "--workers", "1",
               "--devices", "2"]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    weights = {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / out).glob("*/weights.safetensors")
    }
    lines = [json.loads(line) for line in (folder / out / "metrics.jsonl").read_text().splitlines()]
    return weights, Counter((line["stage"], line["step"]) for line in lines)


def test_two_processes_train_to_the_end_and_to_the_same_bytes(tmp_path: Path) -> None:
    write_small_cohort(tmp_path / "data", 4)
    config = short_config(steps=2)
    write_preset(config, tmp_path / "short.yaml")
    (weights, logged), (again, _) = (trained_by_two(tmp_path, out) for out in ("first", "second"))
    assert weights.keys() == config.stages.keys()
    assert weights == again
    assert logged == {(s, step): 1 for s in config.stages if s != "aggregator" for step in (0, 1)}
    assert not list((tmp_path / "first").rglob("*.tmp"))
    assert not (tmp_path / "first" / "train.holder").exists()
    for stage in config.stages:
        record = json.loads((tmp_path / "first" / stage / "state.json").read_text())
        assert (record["finished"], record["weights"]) == (True, weights[stage])


def options(devices: int = 1, precision: str = "32-true") -> TrainOptions:
    here = Path()
    return TrainOptions(here, here, "all", here, 0, 0, devices, precision, 1, False, ReadOptions())


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"},  # an interactive allocation
        {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4"},  # a batch script that starts one process itself
        {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29511"},
    ],
)
def test_one_process_starts_in_the_environment_of_a_batch_system(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in ({} if "RANK" in variables else SLURM | variables).items() | variables.items():
        monkeypatch.setenv(name, value)
    assert launched(options()).world_size == 1


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"SLURM_NTASKS": "4"}, "--devices 1, --precision 32-true: .*ntasks"),
        ({"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "2"}, "would train alone"),
        ({"LOCAL_RANK": "1"}, "would train alone"),
    ],
)
def test_processes_that_do_not_fit_the_options_are_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    for name, value in (SLURM | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"(?s){told}"):
        launched(options())


@pytest.mark.parametrize("precision", ["fp16", "bf16-true", "64-true", "half"])
def test_precisions_that_are_not_trained_in_are_refused(precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "none", "--out", "out", "--precision", precision]) == 2
    assert f"--precision {precision}: allowed bf16-mixed, 32-true, 16-mixed" in capsys.readouterr().err
