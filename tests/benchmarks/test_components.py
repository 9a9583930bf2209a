"""The table of milliseconds a component."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import TRACED_OPSET

pytestmark = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
PROGRAM = """
import sys
from pathlib import Path
from sbldm.benchmarks import components
from tests.support.graphs import export_graph_once
graphs, opset = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
components.export_graph = lambda component, depth, _opset: export_graph_once(graphs, component, depth, opset)
sys.exit(components.main(sys.argv[1:]))
"""
MEANS = {"PyTorch eager fp32", "ONNX Runtime fp32", "OpenVINO fp32", "OpenVINO default"}


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_bundle")
def test_every_component_is_timed_by_every_means(tiny_checkpoint: Path, shared_folder: Path, tmp_path: Path) -> None:
    """In a process of its own: after PyTorch and OpenVINO computed in one, a later child ends it by SIGSEGV."""
    out = tmp_path / "components.json"
    options = ["--checkpoint", str(tiny_checkpoint), "--threads", "1", "--repeats", "1", "--json", str(out)]
    command = [sys.executable, "-c", PROGRAM, str(shared_folder / "graphs"), str(TRACED_OPSET), *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    figures = json.loads(printed[-1])
    assert json.loads(out.read_text()) == figures
    assert [row["component"] for row in figures["rows"]] == [
        "encoder", "aggregator_encode", "denoiser", "aggregator", "decoder", "refiner",
    ]  # fmt: skip
    for row in figures["rows"]:
        assert set(row["timings"]) == MEANS
        assert all(timing["seconds"] > 0 and timing["runs"] == 1 for timing in row["timings"].values())
        limits = {"ONNX Runtime fp32": 1e-4, "OpenVINO fp32": 1e-4, "OpenVINO default": 2e-2}
        assert row["departures"].keys() == limits.keys()
        assert all(row["departures"][name] <= limit for name, limit in limits.items())
    table = [line for line in printed if line.startswith("|")]
    assert len(table) == 2 + len(figures["rows"])
    assert len({line.count("|") for line in table}) == 1


def test_a_checkpoint_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sbldm.benchmarks import components

    assert components.main(["--checkpoint", str(tmp_path / "none")]) == 3
    assert "is this a training directory" in capsys.readouterr().err
