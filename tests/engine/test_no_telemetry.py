"""Nothing that we load looks up a host or leaves files in HOME."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.no_telemetry import VARIABLES

from tests.support.scans import arrays, write_case
from tests.support.tiny import tiny_system_config
from tests.support.tiny_cohort import write_preset

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
assert main(["export", "--checkpoint", checkpoint, "--out", f"{out}/bundle", "--opset", "22", "--force"]) == 0
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


class Tracing:
    """A Python program that begins under strace; what switches reporting off is not in its environment."""

    def __init__(self, program: str, arguments: list[object], folder: Path) -> None:
        strace = shutil.which("strace")
        if strace is None:
            pytest.skip("strace is not installed")
        self.folder, self.home, temporary = folder, folder / "home", folder / "tmp"
        self.home.mkdir()
        temporary.mkdir()
        environment = clean_environment(self.home) | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-B", "-c", program, *map(str, arguments), str(WAIT_S)]
        calls = ["-e", f"trace=connect,sendto,sendmsg,sendmmsg,{WRITING}"]
        with (folder / "stderr").open("wb") as told:
            self.process = subprocess.Popen(
                [strace, "-f", "-y", "--seccomp-bpf", "-s", "400", *calls, "-o", folder / "trace", *command],
                env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=told,
            )  # fmt: skip

    def ended(self) -> Traced:
        """What it did until its end."""
        code, told = self.process.wait(timeout=570), (self.folder / "stderr").read_text()
        if "ptrace" in told.lower():
            pytest.skip(f"strace may not trace here: {told[:200]}")
        assert code == 0, told
        lines = (self.folder / "trace").read_text().splitlines()
        done = [line for line in lines if " = -1 " not in line or "AF_INET" in line]
        network = [line for line in done if re.search(r"AF_INET|sendmmsg", line) and not re.search(LOCAL, line)]
        return Traced(network, {path for line in done if (path := written_path(line, self.folder)) is not None})


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


@pytest.fixture(scope="module")
def generation(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracing]:
    """Volumes are made below `out`, by both runtimes of the CPU."""
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("generation")
    (folder / "out").mkdir()
    tracing = Tracing(GENERATE, [tiny_bundle.path, folder / "out"], folder)
    yield tracing
    tracing.process.kill()


@pytest.fixture(scope="module")
def modelling(
    tiny_bundle: Bundle, tiny_checkpoint: Path, shared_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tracing]:
    """A model is exported, trained and evaluated below `out`; all graphs but one were traced for `tiny_bundle`."""
    for needed in ("torch", "onnxscript", "lightning", "yaml"):
        pytest.importorskip(needed)
    folder = tmp_path_factory.mktemp("modelling")
    (folder / "out").mkdir()
    for name in "AB":
        write_case(folder / "cohort", name, arrays())
    config = tiny_system_config()
    stages = {name: dataclasses.replace(stage, batch_size=1, steps=1) for name, stage in config.stages.items()}
    preset = write_preset(dataclasses.replace(config, stages=stages), folder / "tiny.yaml")
    arguments = [tiny_checkpoint, shared_folder / "graphs", folder / "cohort", preset, folder / "out"]
    tracing = Tracing(MODEL, arguments, folder)
    yield tracing
    tracing.process.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("modelling")  # which waits as long: both wait at once
def test_generate_looks_nothing_up_and_writes_below_out_alone(generation: Tracing) -> None:
    found, out = generation.ended(), generation.folder / "out"
    assert found.outside == []
    assert out / "onnxruntime" / "run.json" in {path.with_name("run.json") for path in found.written}
    assert outside_of(found.written, out) == []
    assert list(generation.home.iterdir()) == []


@pytest.mark.slow
def test_export_train_and_evaluate_look_nothing_up(modelling: Tracing, shared_folder: Path) -> None:
    found = modelling.ended()
    assert found.outside == []
    allowed = [modelling.folder / name for name in ("out", "tmp", "matplotlib")]  # the last is MPLCONFIGDIR
    assert outside_of(found.written, shared_folder / "graphs", *allowed) == []
    assert list(modelling.home.iterdir()) == []


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
