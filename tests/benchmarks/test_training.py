"""Training speed on random data, and pictures of the loss."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sbldm.benchmarks import training_curves, training_speed
from sbldm.engine.bundle.manifest import Grid
from sbldm.train.config import SystemConfig
from sbldm.train.stage import StageRun

from tests.support.tiny import tiny_system_config
from tests.support.tiny_mask_first import tiny_mask_first


def small_system() -> SystemConfig:
    config = tiny_system_config("cmig2025")
    stages = {name: dataclasses.replace(stage, batch_size=2) for name, stage in config.stages.items()}
    return dataclasses.replace(config, stages=stages, grid=Grid((32, 32, 16), (6.0, 6.0, 9.6)))


@pytest.mark.slow
def test_every_stage_has_a_rate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(training_speed, "load_preset", lambda _name: small_system())
    assert training_speed.main(["--steps", "1", "--precision", "32-true"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    rates = {name: value for name, value in figures.items() if name.endswith("_per_second")}
    assert rates.keys() == {
        "autoencoder_slices_per_second", "encode_volumes_per_second", "aggregator_volumes_per_second",
        "denoiser_volumes_per_second", "refiner_slices_per_second",
    }  # fmt: skip
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.slow
def test_every_stage_of_the_mask_first_form_has_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(training_speed, "has_half_weights", lambda *_: True)
    monkeypatch.setattr(training_speed, "StageRun", lambda *a, **k: seen.append(k["half_weights"]) or StageRun(*a, **k))
    rates = training_speed.stage_rates(tiny_mask_first(), tmp_path / "half", 1, "bf16-mixed")
    assert rates.keys() == {
        "autoencoder_crops_per_second", "mask_volumes_per_second", "denoiser_volumes_per_second",
        "refiner_crops_per_second",
    }  # fmt: skip
    assert all(rate > 0 for rate in rates.values())
    training_speed.stage_rates(tiny_mask_first(), tmp_path / "autocast", 1, "bf16-mixed", autocast=True)
    assert seen == [True, False]


def test_an_unknown_preset_is_an_error_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert training_speed.main(["--preset", "brats"]) == 3
    assert "cmig2025, glioma, isbi2024, phantom" in capsys.readouterr().err


def test_random_cases_hold_every_tissue(tmp_path: Path) -> None:
    cohort = training_speed.random_cohort(small_system(), tmp_path / "cases")
    for case in cohort.cases:
        assert set(np.unique(cohort.label(case))) == {0, 1, 2, 3}
        assert (cohort.slices(case)[:, 0][np.asarray(cohort.label(case)) > 0] > 0).all()
    assert np.isfinite(cohort.conditions).all()


def test_a_figure_a_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"stage": s, "step": 20 * k, "loss": 1 / (k + 1)} for s in ("denoiser", "refiner") for k in range(30)]
    lines += [
        {"stage": "refiner", "step": 580, "loss": 0.5, "held_out_loss": 0.7}
    ]  # made again after a resume: this one counts
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert training_curves.main([str(tmp_path), "--to", str(tmp_path / "docs")]) == 0
    drawn = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert drawn.keys() == {"denoiser", "refiner"}
    assert drawn["denoiser"]["steps"] == 581
    assert drawn["denoiser"]["loss"] == pytest.approx(np.mean([1 / 28, 1 / 29, 1 / 30]))
    assert drawn["refiner"]["loss"] == pytest.approx(np.mean([1 / 28, 1 / 29, 0.5]))
    assert drawn["refiner"]["held_out_loss"] == 0.7
    assert "held_out_loss" not in drawn["denoiser"]
    for stage in drawn.values():
        picture = Image.open(stage["file"])
        assert picture.width > 300
        assert Path(stage["file"]).stat().st_size < 50_000


def test_a_directory_without_metrics_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training_curves.main([str(tmp_path)]) == 1
    assert "metrics.jsonl" in capsys.readouterr().err
