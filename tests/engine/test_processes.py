"""Worker processes below scripts without a guard, and where there can be none."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine import processes
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.processes import sharing_workers

UNGUARDED = """
import sys
print("started", flush=True)
from sbldm.cli.main import main
sys.exit(main(["generate", "--bundle", sys.argv[1], "--out", sys.argv[2], "--count", "2", "--steps", "1",
               "--workers", "2", "--quiet"]))
"""


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once(tiny_bundle: Bundle, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    command = [sys.executable, str(script), str(tiny_bundle.path), str(tmp_path / "run")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("started") == 1
    assert (tmp_path / "run" / "manifest.csv").is_file()


@pytest.fixture
def daemonic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("daemonic")
def test_a_daemonic_process_is_told_before_anything_is_written(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "--bundle", str(tiny_bundle.path), "--count", "2", "--out", str(tmp_path / "run")]
    assert main([*command, "--workers", "2"]) == 2
    assert "daemonic" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("daemonic")
def test_a_pool_in_a_daemonic_process_is_one_process(caplog: pytest.LogCaptureFixture) -> None:
    assert sharing_workers(4) == 1
    assert "daemonic" in caplog.text


def test_a_pool_without_semaphores_is_one_process(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert sharing_workers(4) == 4

    def no_lock() -> None:
        raise PermissionError(13, "Permission denied")

    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr(type(context), "Lock", lambda _self: no_lock())
    assert processes.sharing_workers(4) == 1
    assert "/dev/shm" in caplog.text
