"""Held-out cases: what every stage says of them, by parts of the schedule, and what is chosen by them."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from sbldm.cli.main import main
from sbldm.train.diffusion import by_time
from sbldm.train.lineage import read_record
from sbldm.train.run import progress

from tests.support.scans import as_sample
from tests.support.tiny_cohort import short_config, write_preset, write_small_cohort


def test_errors_are_told_by_the_part_of_the_schedule_that_their_time_lies_in() -> None:
    errors = torch.arange(12.0).reshape(4, 3)  # means 1, 4, 7, 10
    told = by_time(errors, torch.tensor([0, 249, 250, 999]), 1000)
    assert {name: float(value) for name, value in told.items() if not value.isnan()} == {"t1": 2.5, "t2": 7, "t4": 10}
    assert told.keys() == {"t1", "t2", "t3", "t4"}


@pytest.mark.parametrize("changed", ["nothing", "mask", "images"])
def test_a_held_out_case_that_is_in_training_under_another_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: str
) -> None:
    data = write_small_cohort(tmp_path / "data", 3)
    (data / "S9").mkdir()
    for file in (data / "S0").iterdir():
        is_mask = file.name.endswith("_seg.nii.gz")
        if changed == ("mask" if is_mask else "images"):
            shutil.move(data / "S1" / file.name.replace("S0", "S1"), data / "S9" / file.name.replace("S0", "S9"))
            continue
        packed = gzip.compress(gzip.decompress(file.read_bytes()), 1, mtime=7)  # other bytes of the same voxels
        (data / "S9" / file.name.replace("S0", "S9")).write_bytes(packed)
    shutil.rmtree(data / "S1")
    asked = ["train", "--data", str(data), "--out", str(tmp_path / "out"), "--workers", "1"]
    preset = write_preset(short_config(steps=2), tmp_path / "short.yaml")
    assert main([*asked, "--cache", str(tmp_path / "cache"), "--preset", str(preset), "--held-out", "1"]) == 3
    assert "1 held-out case also in training:\n  S9 is S0, or has its images or mask\n" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_samples_in_a_cohort_are_told_and_faulty_cases_are_none_to_train_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_small_cohort(tmp_path / "data", 3)
    as_sample(data / "S1")
    (data / "S2" / "S2_t1.nii.gz").unlink()
    asked = ["train", "--data", str(data), "--out", str(tmp_path / "out"), "--workers", "1", "--held-out", "2"]
    preset = write_preset(short_config(steps=2), tmp_path / "short.yaml")
    assert main([*asked, "--preset", str(preset), "--skip-invalid"]) == 3
    told = capsys.readouterr().err
    assert "1 case made by sbldm-engine, such as S1" in told
    assert "--held-out 2 leaves none to train on, it has 2 cases" in told


@pytest.mark.parametrize("held_out", [2, 9])
def test_held_out_cases_leave_some_to_train_on_which_is_found_before_any_is_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], held_out: int
) -> None:
    data = write_small_cohort(tmp_path / "data", 2)
    asked = ["train", "--data", str(data), "--out", str(tmp_path / "out"), "--held-out", str(held_out)]
    assert main([*asked, "--preset", str(write_preset(short_config(steps=2), tmp_path / "short.yaml"))]) == 3
    told = capsys.readouterr().err
    assert f"{data}: --held-out {held_out} leaves none to train on, it has 2 cases; hold out 1 at most" in told
    assert not (tmp_path / "out").exists()


def test_a_stage_that_ended_early_is_told(tmp_path: Path) -> None:
    (tmp_path / "denoiser").mkdir()
    (tmp_path / "denoiser" / "state.json").write_text(json.dumps({"step": 12, "stopped": True}))
    assert progress(tmp_path, short_config(steps=30)) == "denoiser 12/30 (ended early)"


@pytest.mark.slow
def test_every_stage_of_the_slice_form_is_looked_at_with_cases_that_it_never_saw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write_small_cohort(tmp_path / "data", 3), tmp_path / "out"
    config = short_config(steps=2)
    single = {stage: dataclasses.replace(config.stages[stage], batch_size=1) for stage in ("denoiser", "distill")}
    preset = write_preset(dataclasses.replace(config, stages=config.stages | single), tmp_path / "short.yaml")
    asked = ["train", "--data", str(data), "--out", str(out), "--preset", str(preset), "--workers", "1"]
    assert main([*asked, "--held-out", "1", "--keep", "best", "--patience", "9"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert re.search(r"refiner 2/2; trained in \d+ min$", lines[-1])
    assert [line.split("  ")[0] for line in lines if "held_out_loss" in line][-2:] == ["distill 1/2", "distill 2/2"]
    told: dict[str, set[str]] = {}
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        told.setdefault(line["stage"], set()).update(line)
    assert "held_out_psnr" in told["autoencoder"]
    for stage in ("denoiser", "distill"):
        assert {f"held_out_t{part}" for part in (1, 2, 3, 4)} <= told[stage]
    assert {"held_out_l1", "held_out_detail"} <= told["refiner"]
    assert not {"held_out_adversarial", "held_out_discriminator"} & told["refiner"]
    for stage in ("autoencoder", "denoiser", "distill", "refiner"):
        record = read_record(out, stage)
        assert record is not None
        assert record.best is not None
        assert (out / stage / record.best.tensors).is_file()
