"""A training starts again once, as the same process, with memory settings of the C library."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from sbldm.cli import _allocator
from sbldm.cli._allocator import SETTINGS, SETTLED, settle_allocator

PROGRAM = """
import os, sys
print(os.getpid(), os.environ.get("MALLOC_MMAP_MAX_"), os.environ.get("MALLOC_TRIM_THRESHOLD_"), flush=True)
sys.argv = ["sbldm-engine", *sys.argv[1:]]
from sbldm.cli.main import run
run()
"""


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The environments that the process was started again with, on a machine with glibc and no accelerator."""
    found: list[dict[str, str]] = []
    for name in (SETTLED, *SETTINGS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_allocator, "_ACCELERATORS", ())
    monkeypatch.setattr(_allocator, "platform", SimpleNamespace(libc_ver=lambda: ("glibc", "2.36")))
    monkeypatch.setattr(os, "execve", lambda _path, _arguments, environment: found.append(environment))
    return found


def test_only_a_training_starts_again_and_only_once(
    starts: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_allocator(["generate", "--out", "train"])
    settle_allocator([])
    assert starts == []
    settle_allocator(["--debug", "train", "--data", "x"])
    assert len(starts) == 1
    assert SETTINGS.items() <= starts[0].items()
    monkeypatch.setenv(SETTLED, starts[0][SETTLED])
    settle_allocator(["train"])
    assert len(starts) == 1


def test_a_setting_of_the_user_stays(starts: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "7")
    settle_allocator(["train"])
    assert starts[0]["MALLOC_MMAP_MAX_"] == "7"
    assert starts[0]["MALLOC_TRIM_THRESHOLD_"] == SETTINGS["MALLOC_TRIM_THRESHOLD_"]


def test_nothing_happens_beside_an_accelerator_or_another_c_library(
    starts: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_allocator, "_ACCELERATORS", (tmp_path,))
    settle_allocator(["train"])
    monkeypatch.setattr(_allocator, "_ACCELERATORS", ())
    monkeypatch.setattr(_allocator, "platform", SimpleNamespace(libc_ver=lambda: ("", "")))
    settle_allocator(["train"])
    assert starts == []


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings are glibc's")
@pytest.mark.skipif(any(device.exists() for device in _allocator._ACCELERATORS), reason="beside an accelerator")
def test_the_process_and_its_exit_code_stay() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in (SETTLED, *SETTINGS)}
    command = [sys.executable, "-c", PROGRAM, "train", "--nonsense"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    first, second = (line.split() for line in ended.stdout.splitlines())
    assert first[1:] == ["None", "None"]
    assert second[1:] == ["0", "1000000000000"]
    assert first[0] == second[0]
    assert ended.returncode == 2
    assert "nonsense" in ended.stderr
