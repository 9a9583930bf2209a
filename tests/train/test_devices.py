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
from safetensors.torch import load_file
from sbldm.cli.main import main
from sbldm.engine.errors import IncompleteRunError, InvalidInputError, UsageError
from sbldm.engine.scans.options import ReadOptions
from sbldm.train.config import SystemConfig, load_preset
from sbldm.train.faults import machine_faults
from sbldm.train.ranks import LastWords, machines
from sbldm.train.run import TrainOptions, launched

from tests.support.tiny_cohort import short_config, write_preset, write_small_cohort

SLURM = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
         "SLURM_NODEID": "0", "SLURM_NNODES": "1", "SLURM_NODELIST": "node1"}  # fmt: skip


# what the second process is started with again; ENDS="rank:step:how" ends one of them in the autoencoder's step
SCRIPT = """
import os, signal
from sbldm.cli.main import run
from sbldm.engine.errors import InvalidInputError
from sbldm.train.stage import StepMaker

usual, (rank, at, how) = StepMaker.make, os.environ.get("ENDS", "-1:0:").split(":")

def make(self, step):
    if self.fabric.global_rank == int(rank) and step == int(at):
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise InvalidInputError("scan 7 is torn")
    usual(self, step)

StepMaker.make = make
if __name__ == "__main__":
    run()
"""


def arguments(folder: Path, out: str, *more: str) -> list[str]:
    return ["train", "--data", str(folder / "data"), "--out", str(folder / out), "--cache", str(folder / "cache"),
            "--preset", str(folder / "short.yaml"), "--workers", "1", "--precision", "32-true", *more]  # fmt: skip


def by_two(folder: Path, out: str, ends: str = "-1:0:") -> subprocess.CompletedProcess[str]:
    """A training by two processes on this CPU."""
    script = folder / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(script), *arguments(folder, out, "--devices", "2")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ENDS": ends}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def weights(folder: Path, out: str) -> dict[str, Path]:
    return {path.parent.name: path for path in sorted((folder / out).glob("*/weights.safetensors"))}


def hashes(found: dict[str, Path]) -> dict[str, str]:
    return {stage: hashlib.sha256(path.read_bytes()).hexdigest() for stage, path in found.items()}


def logged(folder: Path, out: str) -> list[dict]:
    return [json.loads(line) for line in (folder / out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def config() -> SystemConfig:
    return short_config(steps=2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, config: SystemConfig) -> Path:
    """A cohort, and `whole`, what two processes made of it."""
    folder = tmp_path_factory.mktemp("devices")
    write_small_cohort(folder / "data", 4)
    write_preset(config, folder / "short.yaml")
    done = by_two(folder, "whole")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("autoencoder 1/2") == 1  # one of them tells
    return folder


@pytest.mark.slow
def test_two_processes_train_to_the_end_and_write_once(pair: Path, config: SystemConfig) -> None:
    found = weights(pair, "whole")
    assert found.keys() == config.stages.keys()
    counted = Counter((line["stage"], line["step"]) for line in logged(pair, "whole"))
    assert counted == {(s, step): 1 for s in config.stages if s != "aggregator" for step in (0, 1)}
    assert not list((pair / "whole").rglob("*.tmp"))
    assert not (pair / "whole" / "train.holder").exists()
    for stage, sha256 in hashes(found).items():
        record = json.loads((pair / "whole" / stage / "state.json").read_text())
        assert (record["finished"], record["weights"]) == (True, sha256)


@pytest.mark.slow
def test_one_process_with_the_joint_batch_has_the_same_losses(pair: Path) -> None:
    assert main(arguments(pair, "joint", "--accumulate", "2")) == 0
    one, two = logged(pair, "joint"), logged(pair, "whole")
    assert [(line["stage"], line["step"]) for line in one] == [(line["stage"], line["step"]) for line in two]
    for mine, theirs in zip(one, two, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4), mine["stage"]
        assert mine["mean_loss"] == pytest.approx(theirs["mean_loss"], rel=1e-4), mine["stage"]


@pytest.mark.slow
def test_a_process_that_fails_ends_the_other_with_its_message_and_the_same_command_goes_on(pair: Path) -> None:
    failed = by_two(pair, "failed", "1:1:torn")
    assert failed.returncode not in (0, 1)
    assert "scan 7 is torn" in failed.stderr
    assert "Traceback" not in failed.stderr
    done = by_two(pair, "failed")
    assert done.returncode == 0, done.stderr
    assert hashes(weights(pair, "failed")) == hashes(weights(pair, "whole"))


@pytest.mark.slow
def test_a_training_whose_first_process_was_killed_goes_on_with_one(pair: Path) -> None:
    killed = by_two(pair, "killed", "0:1:killed")
    assert killed.returncode == -9
    assert json.loads((pair / "killed" / "autoencoder" / "state.json").read_text())["step"] == 1
    assert main(arguments(pair, "killed")) == 0
    whole = weights(pair, "whole")
    mine, theirs = (load_file(found["autoencoder"]) for found in (weights(pair, "killed"), whole))
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-5)


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
