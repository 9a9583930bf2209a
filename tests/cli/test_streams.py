"""Streams and terminals as schedulers and collectors give them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sbldm.cli._plots import settle_matplotlib
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle

MODULE = [sys.executable, "-m", "sbldm"]


def shell(bundle: Bundle, folder: Path, redirections: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A run of three samples under a shell's redirections."""
    asked = f"generate --bundle {bundle.path} --count 3 --steps 1"
    return subprocess.run(
        ["sh", "-c", f"exec {' '.join(MODULE)} {asked} {redirections}"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def lines(path: Path) -> int:
    return len((path / "ledger.jsonl").read_text().splitlines())


def test_a_closed_stderr_leaves_results_alone(tiny_bundle: Bundle, tmp_path: Path) -> None:
    run = shell(tiny_bundle, tmp_path, "--out run --json 2>&-")
    assert json.loads(run.stdout)["made"] == 3
    assert lines(tmp_path / "run") == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_stderr_ends_no_run_and_a_full_stdout_is_told(tiny_bundle: Bundle, tmp_path: Path) -> None:
    assert shell(tiny_bundle, tmp_path, "--out run 2>/dev/full").returncode == 0
    assert lines(tmp_path / "run") == 3
    run = shell(tiny_bundle, tmp_path, "--out run --resume --json >/dev/full")
    assert run.returncode == 5
    assert "stdout" in run.stderr
    assert "Traceback" not in run.stderr


def test_ascii_and_a_colour_that_is_forced(tiny_bundle: Bundle, tmp_path: Path) -> None:
    run = shell(tiny_bundle, tmp_path, "--out ä", PYTHONIOENCODING="ascii", FORCE_COLOR="1")
    assert run.returncode == 0, run.stderr
    assert "\\xe4" in run.stdout
    assert run.stderr.startswith("info: started done=0 to_make=3\n")
    assert "\033" not in run.stderr


def test_a_narrow_terminal_cuts_no_option() -> None:
    run = subprocess.run(
        [*MODULE, "merge", "--help"], env={**os.environ, "COLUMNS": "40"}, capture_output=True, text=True, timeout=60
    )
    assert "--out" in run.stdout
    assert "--add-to" in run.stdout


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["generate", "--out", "x", "--log-format", "json"], 2),
        (["generate", "--out", "x", "--log-format=json", "--nonsense"], 2),
        (["generate", "--out", "x", "--count", "1", "--bundle", "/nonexistent/b", "--log-format", "json"], 3),
    ],
)
def test_errors_are_json_where_lines_are(command: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == code
    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert told[-1]["level"] == "error"
    assert told[-1]["exit_code"] == code


def test_a_working_directory_that_is_gone(tiny_bundle: Bundle, tmp_path: Path) -> None:
    command = f"mkdir gone; cd gone; rmdir ../gone; {' '.join(MODULE)} generate --bundle {tiny_bundle.path}"
    run = subprocess.run(
        ["sh", "-c", f"{command} --count 1 --out run"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 2, run.stderr
    assert "unexpected" not in run.stderr


def test_matplotlib_keeps_its_fonts_in_our_cache_or_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", "chosen")
    settle_matplotlib()
    assert os.environ["MPLCONFIGDIR"] == "chosen"
    monkeypatch.delenv("MPLCONFIGDIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settle_matplotlib()
    assert Path(os.environ["MPLCONFIGDIR"]) == tmp_path / "sbldm-engine" / "matplotlib"
    monkeypatch.delenv("MPLCONFIGDIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settle_matplotlib()
    assert Path(os.environ["MPLCONFIGDIR"]).parent == tmp_path
