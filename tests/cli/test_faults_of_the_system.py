"""What the system or a missing package raises, as messages and exit codes."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from sbldm.cli._faults import explained
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.portable import free_memory
from sbldm.engine.run.memory import require_memory


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (MemoryError(), 5, "--resume"),
        (ImportError("x.so: failed to map segment from shared object"), 5, "allow more"),
        (Exception("The current node timed out during startup."), 4, "--ray local"),
        (OSError(errno.EMFILE, "Too many open files", "a"), 5, "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device"), 5, "make room"),
        (RuntimeError("can't start new thread"), 4, "ulimit -u"),
        (OSError(errno.EIO, "Input/output error"), 5, "Input/output error; mend that"),
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), 2, "/a/b: cannot be used (Permission denied)"),
        (ModuleNotFoundError("No module named 'onnxscript.x'", name="onnxscript.x"), 2, "sbldm-engine[export]"),
    ],
)
def test_known_causes(error: Exception, code: int, told: str) -> None:
    found = explained(error)
    assert found is not None
    assert found[1] == code
    assert told in found[0]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        RuntimeError("x"),
        OSError(errno.EBADF, "x"),
        FileNotFoundError(errno.ENOENT, "x"),
        ModuleNotFoundError("x", name="x"),
    ],
)
def test_other_errors_stay_unexpected(error: Exception) -> None:
    assert explained(error) is None


@pytest.mark.parametrize("options", [["--count", str(10**14)], ["--count", "1", "--batch-size", "5000"]])
def test_absurd_numbers_are_refused_with_what_is_allowed(
    options: list[str], tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["generate", "--bundle", str(tiny_bundle.path), "--out", str(out), *options]) == 2
    assert "must be" in capsys.readouterr().err
    assert not out.exists()


def test_a_limit_of_memory_below_what_libraries_need_is_told(tmp_path: Path) -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (250 * 10**6,) * 2);"
        "from sbldm.cli.main import run; run()"
    )
    asked = ["generate", "--count", "2", "--out", str(tmp_path / "run")]
    run = subprocess.run([sys.executable, "-c", program, *asked], capture_output=True, text=True, timeout=300)
    assert run.returncode == 5
    assert "may use 250 MB of memory (ulimit -v), libraries alone need 600 MB" in run.stderr
    assert not (tmp_path / "run").exists()


def test_a_batch_that_no_memory_holds_is_refused_with_the_figure(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    require_memory(tiny_bundle, 8)
    assert free_memory() > 2**20
    monkeypatch.setattr("sbldm.engine.run.memory.free_memory", lambda: 100_000)
    command = ["generate", "--bundle", str(tiny_bundle.path), "--count", "1", "--out", str(tmp_path / "run")]
    assert main([*command, "--batch-size", "64"]) == 2
    assert "GB are free here; give at most" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
