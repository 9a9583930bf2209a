"""Nothing that we load looks up a host or leaves files in HOME."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.no_telemetry import VARIABLES

from tests.support.scans import arrays, write_case
from tests.support.tiny import tiny_system_config

WAIT_S = 12  # ONNX Runtime first asks for its host 10 s after it is loaded
WRITING = "openat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,symlink,symlinkat,link,linkat"
LOCAL = r'sin_addr=inet_addr\("127\.|"::1"|AF_UNIX'
ROOT = Path(__file__).parents[2]

GENERATE = """
import sys, time
start = time.monotonic()
from sbldm.cli.main import main
bundle, out = sys.argv[1:3]
for backend in ("onnxruntime", "openvino"):
    made = ["--count", "1", "--quiet", "--backend", backend, "--out", f"{out}/{backend}"]
    assert main(["generate", "--bundle", bundle, *made]) == 0, backend
assert main(["doctor", "--bundle", bundle]) == 0
time.sleep(max(0, float(sys.argv[3]) - (time.monotonic() - start)))
"""

MODEL = """
import sys, time
start = time.monotonic()
from pathlib import Path
import sbldm.export.bundle as bundles
from sbldm.cli.main import main
from tests.support.graphs import export_graph_once
checkpoint, graphs, cohort, config, out = sys.argv[1:6]
real = bundles.export_graph  # of one network, those of the others are kept from before
bundles.export_graph = lambda component, depth, opset: (
    real(component, depth, opset) if component.name == "aggregator"
    else export_graph_once(Path(graphs), component, depth, opset))
assert main(["export", "--checkpoint", checkpoint, "--out", f"{out}/bundle", "--force"]) == 0
trained = ["--data", cohort, "--preset", config, "--out", f"{out}/trained", "--precision", "32-true", "--workers", "1"]
assert main(["train", *trained]) == 0
compared = ["--real", cohort, "--synthetic", cohort, "--pairs", "1", "--workers", "1", "--out", f"{out}/figures"]
assert main(["evaluate", *compared, "--quiet"]) == 0
time.sleep(max(0, float(sys.argv[6]) - (time.monotonic() - start)))
"""


def clean_environment(home: Path) -> dict[str, str]:
    """This environment without what switches reporting off, and with a HOME of its own."""
    dropped = (*VARIABLES, "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "CI")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"HOME": str(home), "MPLCONFIGDIR": str(home.parent / "matplotlib")}


@dataclass(frozen=True)
class Traced:
    """What a program asked of the network, and which files it made or changed."""

    outside: list[str]  # calls that leave this machine, or ask a name server
    written: set[Path]


def traced(program: str, arguments: list[object], folder: Path) -> Traced:
    """Run a Python program under strace; what switches reporting off is not in its environment."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace, home, temporary = folder / "trace", folder / "home", folder / "tmp"
    home.mkdir()
    temporary.mkdir()
    environment = clean_environment(home) | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-B", "-c", program, *map(str, arguments), str(WAIT_S)]
    calls = ["-e", f"trace=connect,sendto,sendmsg,sendmmsg,{WRITING}"]
    run = subprocess.run(
        [strace, "-f", "-y", "--seccomp-bpf", "-s", "400", *calls, "-o", trace, *command],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=570,
    )  # fmt: skip
    if "PTRACE" in run.stderr or "ptrace" in run.stderr:
        pytest.skip(f"strace may not trace here: {run.stderr[:200]}")
    assert run.returncode == 0, run.stderr
    lines = [line for line in trace.read_text().splitlines() if " = -1 " not in line or "AF_INET" in line]
    network = [line for line in lines if re.search(r"AF_INET|sendmmsg", line) and not re.search(LOCAL, line)]
    return Traced(network, {path for line in lines if (path := written_path(line, folder)) is not None})


def written_path(line: str, folder: Path) -> Path | None:
    """The path of a file that a traced call makes, opens for writing, renames or removes; None for other calls."""
    call = re.search(r"\b(" + WRITING.replace(",", "|") + r")\((.*)", line)
    if call is None or (call[1] == "openat" and not re.search("O_WRONLY|O_RDWR|O_CREAT", call[2])):
        return None
    named = re.findall(r'"((?:[^"\\]|\\.)*)"', call[2])
    base = re.match(r"(?:AT_FDCWD|\d+)<([^>]*)>", call[2])
    return None if not named else Path(base[1] if base else folder) / named[0]


def outside_of(written: set[Path], *allowed: Path) -> list[str]:
    """Written paths that are neither below an allowed folder nor a device."""
    devices = (Path("/dev"), Path("/proc/self"))
    return sorted(str(path) for path in written if not any(path.is_relative_to(a) for a in (*allowed, *devices)))


@pytest.mark.slow
def test_generate_looks_nothing_up_and_writes_below_out_alone(tiny_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    out = tmp_path / "out"
    out.mkdir()
    found = traced(GENERATE, [tiny_bundle.path, out], tmp_path)
    assert found.outside == []
    assert out / "onnxruntime" / "run.json" in {path.with_name("run.json") for path in found.written}
    assert outside_of(found.written, out) == []
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.slow
def test_export_train_and_evaluate_look_nothing_up(
    tiny_checkpoint: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for needed in ("torch", "onnxscript", "lightning", "yaml"):
        pytest.importorskip(needed)
    import json

    import yaml
    from sbldm.train.config import config_to_json

    cohort, config, out = tmp_path / "cohort", tmp_path / "tiny.yaml", tmp_path / "out"
    out.mkdir()
    for name in "AB":
        write_case(cohort, name, arrays())
    stages = {
        name: dataclasses.replace(stage, batch_size=1, steps=1) for name, stage in tiny_system_config().stages.items()
    }
    system = dataclasses.replace(tiny_system_config(), stages=stages)
    config.write_text(yaml.safe_dump(json.loads(json.dumps(config_to_json(system)))))
    base = tmp_path_factory.getbasetemp()
    graphs = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "graphs"
    graphs.mkdir(exist_ok=True)
    found = traced(MODEL, [tiny_checkpoint, graphs, cohort, config, out], tmp_path)
    assert found.outside == []
    caches = [tmp_path / name for name in ("tmp", "matplotlib")]  # the temporary folder, and MPLCONFIGDIR
    assert outside_of(found.written, out, graphs, *caches) == []
    assert list((tmp_path / "home").iterdir()) == []


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
