"""Nothing that we load looks up a host or leaves files in HOME."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.no_telemetry import VARIABLES

WAIT_S = 12  # ONNX Runtime first asks for its host 10 s after it is loaded
CALLS = "trace=connect,sendto,sendmsg,sendmmsg"

PROGRAM = """
import sys, time
start = time.monotonic()
from sbldm.cli.main import main
bundle, out = sys.argv[1:3]
for backend in ("onnxruntime", "openvino"):
    made = ["--count", "1", "--quiet", "--backend", backend, "--out", f"{out}/{backend}"]
    assert main(["generate", "--bundle", bundle, *made]) == 0, backend
assert main(["doctor", "--bundle", bundle]) == 0
import lightning, ray, sbldm.export.bundle, sbldm.train.evaluation.run
time.sleep(max(0, float(sys.argv[3]) - (time.monotonic() - start)))
"""


def clean_environment(home: Path) -> dict[str, str]:
    """This environment without what switches reporting off, and with a HOME of its own."""
    dropped = (*VARIABLES, "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "CI")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"HOME": str(home), "MPLCONFIGDIR": str(home.parent / "matplotlib")}


@pytest.mark.slow
def test_no_host_is_looked_up_and_home_stays_empty(tiny_bundle: Bundle, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    pytest.importorskip("openvino")
    trace, home = tmp_path / "trace", tmp_path / "home"
    home.mkdir()
    program = [sys.executable, "-c", PROGRAM, str(tiny_bundle.path), str(tmp_path), str(WAIT_S)]
    run = subprocess.run(
        [
            strace,
            "-f",
            "--seccomp-bpf",
            "-s",
            "200",
            "-e",
            "trace=connect,sendto,sendmsg,sendmmsg",
            "-o",
            trace,
            *program,
        ],
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=240,
    )
    if "PTRACE" in run.stderr or "ptrace" in run.stderr:
        pytest.skip(f"strace may not trace here: {run.stderr[:200]}")
    assert run.returncode == 0, run.stderr
    outside = [line for line in trace.read_text().splitlines() if re.search(r"AF_INET|sendmmsg", line)]
    assert outside == []
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_generate_runs_where_no_network_exists(tiny_bundle: Bundle, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("unshare cannot make a network namespace here")
    command = [sys.executable, "-m", "sbldm.cli.main", "generate", "--bundle", str(tiny_bundle.path), "--count", "1"]
    run = subprocess.run(
        [unshare, "-rn", *command, "--out", str(tmp_path / "run")], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "run" / "manifest.csv").is_file()


def test_a_program_that_loads_onnxruntime_first_is_told(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    told = [
        subprocess.run(
            [sys.executable, "-c", f"import {order}"],
            env=clean_environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
        ).stderr
        for order in ("onnxruntime, sbldm", "sbldm, onnxruntime")
    ]
    assert "import sbldm first" in told[0]
    assert told[1] == ""
