"""`inspect`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle

from tests.support.schemas import held_to


def test_text_names_what_matters(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_bundle.path)]) == 0
    text = capsys.readouterr().out
    for expected in (
        tiny_bundle.manifest.id,
        "volume_ml",
        "denoiser",
        "sha256",
        "parity",
        "ddim, 10 steps, eta 0, guidance 1",
        "v_prediction",
    ):
        assert expected in text


def test_json_is_the_whole_manifest(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_bundle.path), "--json"]) == 0
    data = held_to("inspect", capsys.readouterr().out)
    assert data["manifest"]["id"] == tiny_bundle.manifest.id
    assert data["sha256"] == tiny_bundle.sha256
    assert data["parity"]["passed"]
    assert data["usual_ranges"]["volume_ml"][0] > 0


def test_a_changed_bundle_ends_with_3(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    (copy / "README.md").write_text("changed")
    assert main(["inspect", str(copy)]) == 3
    assert "README.md" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "nowhere")]) == 3
