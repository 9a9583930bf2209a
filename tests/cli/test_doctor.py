from __future__ import annotations

import json

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle


def test_doctor_in_words_and_in_json(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--bundle", str(tiny_bundle.path)]) == 0
    words = capsys.readouterr().out
    assert "yes    onnxruntime on cpu" in words
    assert "auto   " in words
    assert main(["doctor", "--bundle", str(tiny_bundle.path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {"cpu", "bf16", "threads", "findings", "choice"} <= data.keys()


def test_no_backend_is_exit_code_4(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sbldm.engine.doctor.installed", lambda _name: None)
    assert main(["doctor", "--bundle", str(tiny_bundle.path)]) == 4
    assert 'pip install "sbldm-engine[cpu]"' in capsys.readouterr().out
