"""`export`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle, load_bundle
from sbldm.engine.bundle.report import report_text
from sbldm.export.onnx_graph import DEFAULT_OPSET

from tests.conftest import TRACED_OPSET


@pytest.mark.slow
def test_a_checkpoint_becomes_a_bundle_and_fp16_storage_halves_it(
    tiny_checkpoint: Path, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    command = ["export", "--checkpoint", str(tiny_checkpoint), "--out", str(out), "--id", "mine", "--licence", "CC0"]
    command += ["--store", "fp16"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert "parity with PyTorch" in captured.out
    assert "exporting denoiser" in captured.err
    made = load_bundle(out)
    manifest, parity = made.manifest, json.loads((out / "parity.json").read_text())
    assert (manifest.id, manifest.provenance.licence, manifest.precision) == ("mine", "CC0", "fp32")
    assert manifest.opset == DEFAULT_OPSET["fp32"] < TRACED_OPSET
    sizes = [bundle.manifest.files["denoiser.onnx"].bytes for bundle in (made, tiny_bundle)]
    assert sizes[0] < 0.8 * sizes[1]
    rounding = {figure["component"]: figure["rms_relative"] for figure in parity["rounding"]}
    assert set(rounding) == set(manifest.components)
    assert 1e-5 < max(rounding.values()) < 2e-3  # fp16 keeps 11 bits
    assert "rounding weights to fp16 changed outputs" in report_text(made)
    assert main(command) == 2  # the directory holds files now


def test_triton_from_a_bundle(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--bundle", str(tiny_bundle.path), "--triton", str(tmp_path / "models")]) == 0
    assert "sbldm_denoiser" in capsys.readouterr().out
    assert (tmp_path / "models" / "sbldm_denoiser" / "1" / "model.onnx").is_file()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "give --checkpoint and --out"),
        (["--checkpoint", "c"], 2, "needs --out"),
        (["--checkpoint", "c", "--out", "o", "--precision", "int8"], 2, "allowed fp32, fp16, bf16"),
        (["--checkpoint", "c", "--out", "o", "--store", "int8"], 2, "allowed fp32, fp16"),
        (["--checkpoint", "c", "--out", "o", "--opset", "9"], 3, "opset 9: allowed 21..23"),
        (["--checkpoint", "c", "--out", "o"], 3, "is this a training directory"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *options]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
