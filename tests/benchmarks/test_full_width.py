"""The proof of presets, on a preset that is anything but wide."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sbldm.engine.errors import InvalidInputError
from sbldm.export.bundle import ExportOptions
from sbldm.train.config import config_to_json

from tests.conftest import TRACED_OPSET
from tests.support.tiny import tiny_system_config

full_width = pytest.importorskip("sbldm.benchmarks.full_width")


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    text = json.dumps(config_to_json(tiny_system_config("phantom")))
    path.write_text(text.replace("1e-06", "0.000001"), "utf-8")  # YAML 1.1 reads JSON but for exponents without a point
    return path


@pytest.mark.usefixtures("traced_once")
def test_a_preset_goes_through_gate_and_builder(
    preset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(full_width, "ExportOptions", lambda precision: ExportOptions(precision, TRACED_OPSET))
    out = tmp_path / "proof.md"
    options = ["--presets", str(preset), "--precisions", "fp32", "--capabilities", "89", "--out", str(out)]
    assert full_width.main(options) == 0
    text = out.read_text("utf-8")
    assert text in capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert [row[2] for row in rows[2:8]] == [
        "encoder", "aggregator_encode", "denoiser", "aggregator", "decoder", "refiner",
    ]  # fmt: skip
    for row in rows[2:8]:
        largest, rms = float(row[3]), float(row[4])
        assert 0 <= rms <= 1e-4
        assert largest >= 0
        assert float(row[5].split(",")[1]) > 0
    assert rows[-1][:3] == ["phantom", "fp32", "passed"]
    assert "Dice 1.0000 or more" in rows[-1][3]


def test_a_gate_that_is_not_passed_is_told_and_counts(
    preset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_arguments: object) -> None:
        raise InvalidInputError("it differs; no bundle was written\n  denoiser: prediction (late): RMS 3e-01")

    monkeypatch.setattr(full_width, "export_bundle", refuse)
    assert full_width.main(["--presets", str(preset), "--precisions", "fp16", "--capabilities", ""]) == 3
    assert "| phantom | fp16 | failed:   denoiser: prediction (late): RMS 3e-01 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--presets", "none", "--capabilities", ""], 3, "shipped presets"),
        (["--capabilities", "90"], 4, "no engines for compute capability 90"),
    ],
)
def test_what_is_not_there_is_refused(
    capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    if code == 4:
        pytest.importorskip("tensorrt_rtx")
    assert full_width.main(options) == code
    assert message in capsys.readouterr().err
