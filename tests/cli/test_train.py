"""`sbldm-engine train` as a user meets it; training itself is in tests/train."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from sbldm.cli.main import main

from tests.support.scans import arrays
from tests.support.scans import write_case as write_scan


def test_a_dry_run_touches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["train", "--data", str(tmp_path / "none"), "--out", str(out), "--preset", "isbi2024", "--dry-run"]
    assert main([*command, "--stage", "denoiser", "--steps", "denoiser=9"]) == 0
    printed = capsys.readouterr().out
    assert "GMAC a slice" in printed
    assert "stage denoiser: 9 steps of 2" in printed
    assert "GiB in float32" in printed
    assert "stage autoencoder" not in printed
    assert not out.exists()


def test_an_interrupt_says_what_is_saved_and_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: object, options: object) -> None:
        (tmp_path / "denoiser").mkdir()
        (tmp_path / "denoiser" / "state.json").write_text(json.dumps({"step": 12, "seed": 0}))
        raise KeyboardInterrupt

    monkeypatch.setattr("sbldm.train.run.run_training", interrupted)
    assert main(["train", "--data", "cohort", "--out", str(tmp_path), "--steps", "denoiser=30"]) == 130
    said = capsys.readouterr().err
    assert "interrupted" in said
    assert "denoiser 12/30" in said
    assert "the same command goes on" in said


def test_one_tumour_label_cannot_teach_several_tissues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scan(tmp_path / "data", "A", arrays(numbers=(1, 1, 1)))
    out = tmp_path / "out"
    assert main(["train", "--data", str(tmp_path / "data"), "--out", str(out), "--workers", "1"]) == 3
    told = capsys.readouterr().err
    assert "one tumour label" in told
    assert "--labels" in told
    assert not list(out.glob("*.json"))
