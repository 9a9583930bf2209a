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
import torch
from lightning.fabric import Fabric
from sbldm.cli.main import main
from sbldm.engine.errors import IncompleteRunError, InvalidInputError, UsageError
from sbldm.engine.scans.options import ReadOptions
from sbldm.train.checkpoint import read_tensors, weights_path
from sbldm.train.config import load_preset
from sbldm.train.faults import machine_faults
from sbldm.train.ranks import LastWords, machines
from sbldm.train.run import TrainOptions, launched

from tests.support import two_processes
from tests.support.tiny_cohort import short_config, write_preset, write_small_cohort

SLURM = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
         "SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_NODELIST": "node1"}  # fmt: skip


def arguments(folder: Path, out: str, *more: str) -> list[str]:
    return ["train", "--data", str(folder / "data"), "--out", str(folder / out), "--cache", str(folder / "cache"),
            "--preset", str(folder / "short.yaml"), "--workers", "1", "--precision", "32-true", *more]  # fmt: skip


def logged(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_every_stage_and_write_once_with_the_losses_of_the_joint_batch(tmp_path: Path) -> None:
    write_small_cohort(tmp_path / "data", 3)
    config = short_config(steps=2)
    write_preset(config, tmp_path / "short.yaml")
    script = tmp_path / "train.py"  # what the second process is started with again
    script.write_text("from sbldm.cli.main import run\nif __name__ == '__main__':\n    run()\n", encoding="utf-8")
    command = [sys.executable, str(script), *arguments(tmp_path, "two", "--devices", "2")]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("autoencoder 1/2") == 1  # one of them tells
    two = tmp_path / "two"
    assert not [*two.rglob("*.tmp"), *two.glob("*.holder"), *two.glob(".rank-*")]
    for stage in config.stages:
        record = json.loads((two / stage / "state.json").read_text())
        weights = hashlib.sha256((two / stage / "weights.safetensors").read_bytes()).hexdigest()
        assert (record["finished"], record["weights"]) == (True, weights)
    assert main(arguments(tmp_path, "one", "--accumulate", "2")) == 0
    ours, theirs = logged(tmp_path / "one"), logged(two)
    assert Counter((line["stage"], line["step"]) for line in theirs) == {
        (stage, step): 1 for stage in config.stages if stage != "aggregator" for step in (0, 1)
    }
    for one, both in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(both["loss"], rel=1e-4), one["stage"]


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    return read_tensors(weights_path(directory, two_processes.STAGE))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage that two processes trained without a stop."""
    directory = tmp_path_factory.mktemp("devices") / "whole"
    assert two_processes.by_two(directory) == ([0, 0], ["", ""])
    return directory


def test_two_processes_have_the_losses_of_one_with_the_joint_batch(whole: Path, tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    two_processes.train(fabric, tmp_path, accumulate=2)
    one, two = ([line["loss"] for line in logged(directory)] for directory in (tmp_path, whole))
    assert one == pytest.approx(two, rel=1e-5)
    mine, theirs = weights_of(tmp_path), weights_of(whole)
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_other_and_both_go_on_to_the_same_bytes(
    whole: Path, tmp_path: Path, rank: int
) -> None:
    codes, told = two_processes.by_two(tmp_path, (rank, 3, "killed"))
    assert (codes[rank], codes[1 - rank]) == (-9, 5)
    assert "left no message, as one that was killed" in told[1 - rank]
    assert two_processes.by_two(tmp_path) == ([0, 0], ["", ""])
    assert logged(tmp_path)[-1] == logged(whole)[-1]
    mine, theirs = weights_of(tmp_path), weights_of(whole)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_process_that_fails_is_told_by_the_other_and_one_alone_goes_on(whole: Path, tmp_path: Path) -> None:
    codes, told = two_processes.by_two(tmp_path, (1, 3, "scan 7 is torn"))
    assert codes == [5, 3]
    assert "process 1: scan 7 is torn" in told[0]
    two_processes.train(Fabric(accelerator="cpu", devices=1, precision="32-true"), tmp_path)
    mine, theirs = weights_of(tmp_path), weights_of(whole)
    for name in theirs:
        torch.testing.assert_close(mine[name], theirs[name])


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
    assert f"--precision {precision}: allowed auto, bf16-mixed, 32-true, 16-mixed" in capsys.readouterr().err


def test_what_a_process_ended_of_is_told_by_the_others(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError), LastWords(tmp_path, 1, 2):
        raise InvalidInputError("scan 7 is torn")
    with (
        pytest.raises(IncompleteRunError, match="process 1: scan 7 is torn"),
        machine_faults(LastWords(tmp_path, 0, 2)),
    ):
        raise RuntimeError("[gloo] Connection closed by peer")
    with LastWords(tmp_path, 1, 2):
        pass
    with pytest.raises(IncompleteRunError, match="left no message"), machine_faults(LastWords(tmp_path, 0, 2)):
        raise RuntimeError("[gloo] Connection closed by peer")


def test_last_words_are_left_where_a_process_ends_before_the_directory_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InvalidInputError), LastWords(out, 0, 2):
        raise InvalidInputError("scan 7 is torn")
    with pytest.raises(IncompleteRunError, match="process 0: scan 7 is torn"), machine_faults(LastWords(out, 1, 2)):
        raise RuntimeError("[gloo] Connection closed by peer")


def test_an_interrupt_is_told_in_words_and_one_process_clears_what_several_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), LastWords(tmp_path, 0, 2):
        raise KeyboardInterrupt
    assert LastWords(tmp_path, 1, 2).of_others() == ["process 0: interrupted"]
    with LastWords(tmp_path, 1, 2):
        pass
    assert LastWords(tmp_path, 1, 2).of_others()  # another process's are not taken away
    with LastWords(tmp_path, 0, 1):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, 1),
        (SLURM | {"SLURM_NTASKS": "8", "SLURM_NNODES": "2"}, 2),
        (SLURM | {"SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "bash"}, 1),
        ({"TORCHELASTIC_RUN_ID": "1", "GROUP_WORLD_SIZE": "3", "WORLD_SIZE": "6"}, 3),
    ],
)
def test_machines_are_read_from_what_started_the_process(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], count: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert machines() == count


def test_a_dry_run_states_batch_and_learning_rate(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["train", "--data", "none", "--out", "none", "--dry-run", "--preset", "glioma", "--stage", "mask"]
    assert main([*asked, "--devices", "2", "--accumulate", "2"]) == 0
    stage = load_preset("glioma").stages["mask"]
    told = f"{4 * stage.batch_size} a step, {stage.batch_size} x 2 on each of 2 devices"
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("stage mask"))
    assert told in line
    assert f"x sqrt(4) = {2 * stage.learning_rate:.3g}" in line


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--keep", "best"), "--keep best: chooses by held-out cases"),
        (("--patience", "3", "--held-out", "1"), "give --keep best"),
        (("--keep", "first"), "allowed last, best"),
    ],
)
def test_validation_needs_held_out_cases(more: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "none", "--out", "none", *more]) == 2
    assert told in capsys.readouterr().err
