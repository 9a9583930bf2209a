"""Signs of life, and what a second shard is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine import events
from sbldm.engine.bundle.load import Bundle

from tests.support.schemas import held_to


def command(bundle: Bundle, out: Path, *options: str) -> list[str]:
    return ["generate", "--bundle", str(bundle.path), "--count", "2", "--steps", "1", "--out", str(out), *options]


def test_looking_at_what_was_made_before_is_not_silent(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(tiny_bundle, out, "--quiet")) == 0
    monkeypatch.setattr(events, "SIGN_OF_LIFE_S", 60.0)
    assert main(command(tiny_bundle, out, "--resume")) == 0
    assert "looked at" not in capsys.readouterr().err
    monkeypatch.setattr(events, "SIGN_OF_LIFE_S", -1.0)
    assert main(command(tiny_bundle, out, "--resume")) == 0
    assert "info: looked at 1 of 2 samples that were made before" in capsys.readouterr().err
    assert main(command(tiny_bundle, out, "--resume", "--quiet")) == 0
    assert "looked at" not in capsys.readouterr().err


def test_threads_of_a_shard_are_those_of_the_first(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(command(tiny_bundle, out, "--shard", "0/2", "--threads", "1")) == 0
    assert main(command(tiny_bundle, out, "--shard", "1/2", "--threads", "2")) == 2
    assert "threads: the run has 1, asked for 2" in capsys.readouterr().err
    assert main(command(tiny_bundle, out, "--shard", "1/2", "--json")) == 0
    assert held_to("generate", capsys.readouterr().out)["resolved"]["threads"] == 1
