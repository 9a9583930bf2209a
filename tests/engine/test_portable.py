"""The engine without the calls that only some systems have."""

from __future__ import annotations

import ast
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import sbldm
from sbldm.engine import portable
from sbldm.engine.bundle.load import Bundle

PACKAGE = Path(sbldm.__file__).parent
ELSEWHERE_MISSING = {"fcntl", "resource", "pwd", "grp", "termios", "syslog"}

WITHOUT = """
import os, sys
for name in ("fcntl", "pwd"):  # psutil needs resource where there is one
    sys.modules[name] = None
for name in ("sched_getaffinity", "sched_setaffinity", "O_PATH"):
    if hasattr(os, name):
        delattr(os, name)
import signal
if hasattr(signal, "SIGHUP"):
    del signal.SIGHUP
from sbldm.cli.main import main
bundle, out = sys.argv[1:]
made = ["generate", "--bundle", bundle, "--count", "2", "--steps", "1", "--quiet", "--out", out]
assert main([*made, "--samples", "0"]) == 0
assert main([*made, "--samples", "0", "--resume"]) == 0
assert main(["doctor", "--bundle", bundle]) == 0
"""


AGAIN = """
import resource
import numpy as np
from sbldm.engine.portable import keep_freed_memory
keep_freed_memory()
def touch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        [np.ones(100_000, np.float32) for _ in range(100)]  # 40 MB, and gone
        np.frombuffer(bytearray(48 << 20), np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
touch()
print(touch())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings are glibc's")
@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        ({}, True),
        ({"MALLOC_ARENA_MAX": "2"}, True),
        ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}, False),
    ],
)
def test_freed_memory_comes_back_without_faults_unless_the_user_says_otherwise(
    setting: dict[str, str], kept: bool
) -> None:
    ours = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", AGAIN]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True, env=ours | setting)
    assert (int(run.stdout) < 1000) == kept


def test_a_run_without_them(tiny_bundle: Bundle, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, str(tiny_bundle.path), str(tmp_path / "run")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "no file locks" in run.stderr
    assert (tmp_path / "run" / "manifest.csv").is_file()
    assert not list((tmp_path / "run").glob("*.lock*"))


def test_one_module_alone_makes_them() -> None:
    found = set()
    for folder in ("engine", "cli", "export", "train", "kernels"):
        for path in (PACKAGE / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.Attribute) and node.attr.startswith("sched_"):
                    names.append("sched")
                if ELSEWHERE_MISSING.union({"sched"}) & set(names):
                    found.add(path.relative_to(PACKAGE).as_posix())
    assert found == {"engine/portable.py"}


@pytest.mark.parametrize(("most", "expected"), [(1 << 25, {-3: 1 << 25, -1: 1 << 29}), (0, {})])
def test_an_older_c_library_keeps_what_it_may(
    most: int, expected: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses large thresholds, and one without the other turns off its own that grows."""
    kept: dict[int, int] = {}

    def mallopt(setting: int, size: int) -> int:
        taken = setting == -1 or size <= most
        if taken:
            kept[setting] = size
        return int(taken)

    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(portable.platform, "libc_ver", lambda: ("glibc", "2.31"))
    monkeypatch.setattr(portable.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    portable.keep_freed_memory()
    assert kept == expected
