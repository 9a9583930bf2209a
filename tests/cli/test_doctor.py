from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import BackendUnavailableError

from tests.support.schemas import held_to


def test_doctor_in_words_and_in_json(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--bundle", str(tiny_bundle.path)]) == 0
    words = capsys.readouterr().out
    assert "yes    onnxruntime on cpu" in words
    assert "auto   " in words
    assert main(["doctor", "--bundle", str(tiny_bundle.path), "--json"]) == 0
    data = held_to("doctor", capsys.readouterr().out)
    assert {"cpu", "bf16", "threads", "findings", "choice"} <= data.keys()


def test_no_backend_is_exit_code_4(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sbldm.engine.doctor.installed", lambda _name: None)
    assert main(["doctor", "--bundle", str(tiny_bundle.path)]) == 4
    assert 'pip install "sbldm-engine[cpu]"' in capsys.readouterr().out


def test_the_support_bundle_names_no_place(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    private = tmp_path / "Patient-Smith"
    private.mkdir()
    monkeypatch.chdir(private)
    monkeypatch.setenv("HOME", str(private))
    monkeypatch.setattr("sbldm.engine.doctor.CANDIDATES", (("openvino", "nowhere", ("numpy",), "cpu"),))
    assert main(["doctor", "--bundle", str(tiny_bundle.path), "--json"]) == 4
    told = capsys.readouterr().out
    assert str(tiny_bundle.path) not in told
    assert "Smith" not in told
    assert json.loads(told)["cpu_limits"][0].keys() == {"threads", "rule"}


def test_paths_in_what_libraries_say_are_cut(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "John Smith"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LANG", "/data/Patient-Miller/locale")

    def fails(*_: object) -> str:
        raise BackendUnavailableError(f"{home}/lib/x.so: cannot open shared object, '/data/Patient-Miller/y.so'")

    monkeypatch.setattr("sbldm.engine.doctor._offer", fails)
    main(["doctor", "--bundle", str(tiny_bundle.path), "--json"])
    told = capsys.readouterr().out
    assert "x.so: cannot open shared object, 'y.so'" in told
    assert "Smith" not in told
    assert "Miller" not in told


def test_two_onnx_runtimes_and_one_that_does_not_load(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sbldm.engine import onnx_sessions

    monkeypatch.setattr(onnx_sessions, "installed", lambda name: "1.9" if name in onnx_sessions.DISTRIBUTIONS else None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    main(["doctor", "--bundle", str(tiny_bundle.path)])
    told = capsys.readouterr().out
    assert "both installed: onnxruntime 1.9 and onnxruntime-gpu 1.9" in told
    assert "cannot be loaded: import of onnxruntime halted" in told
