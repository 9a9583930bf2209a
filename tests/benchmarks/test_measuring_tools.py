"""What the benchmark's figures rest on: timing, load, multiply-adds, quality."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sbldm.benchmarks import machine
from sbldm.benchmarks.component_calls import calls_of, check, recorded_parity
from sbldm.benchmarks.machine import OtherLoad, measure_fma_peak
from sbldm.benchmarks.process import family, run_measured
from sbldm.benchmarks.quality import compare
from sbldm.benchmarks.timing import Run, interleaved, summarise
from sbldm.benchmarks.work import count_macs
from sbldm.engine.backends.choose import choose_backend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.sampling.types import Volume


def test_busy_runs_do_not_count_where_there_are_quiet_ones() -> None:
    timing = summarise([Run(1.0, 0.0), Run(9.0, 0.5), Run(3.0, 0.05)], share=0.5)
    assert (timing.seconds, timing.fastest, timing.slowest) == (1.0, 0.5, 1.5)
    assert (timing.runs, timing.busy_runs, timing.busy) == (3, 1, False)
    busy = summarise([Run(1.0, 0.2), Run(3.0, 0.4)])
    assert busy.busy
    assert (busy.seconds, busy.other_cores) == (2.0, 0.4)


def test_calls_are_interleaved_after_a_warm_up() -> None:
    seen: list[str] = []
    timings = interleaved({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, repeats=2)
    assert seen == ["a", "b", "a", "b", "a", "b"]
    assert timings["a"].runs == 2


def test_own_work_is_no_load_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter([(0.0, 10.0, 2.0), (2.0, 13.0, 4.0)])
    monkeypatch.setattr(OtherLoad, "_now", staticmethod(lambda: next(states)))
    assert OtherLoad().cores() == pytest.approx(0.5)


@pytest.mark.slow
def test_the_multiply_add_peak_is_measured_where_there_is_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "FMA_RUNS", 1)
    peak = measure_fma_peak(1)
    assert peak.gflops is None or peak.gflops > 0.1, peak.how
    monkeypatch.setattr(machine.shutil, "which", lambda _name: None)
    assert measure_fma_peak(1).gflops is None


def test_multiply_adds_of_known_layers(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weights = [
        numpy_helper.from_array(np.ones((6, 2, 3, 3), np.float32), "kernel"),
        numpy_helper.from_array(np.ones((7, 5), np.float32), "matrix"),
        numpy_helper.from_array(np.ones((5, 4), np.float32), "gemm"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["y"], pads=[1] * 4, group=2),
        helper.make_node("MatMul", ["y", "matrix"], ["z"]),
        helper.make_node("Gemm", ["g", "gemm"], ["h"], transA=1),
    ]
    floats = onnx.TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("x", floats, [None, 4, 8, 7]),
        helper.make_tensor_value_info("g", floats, [5, 3]),
    ]
    outputs = [helper.make_tensor_value_info(name, floats, None) for name in ("z", "h")]
    graph = helper.make_graph(nodes, "layers", inputs, outputs, weights)
    path = tmp_path / "layers.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    feeds = {"x": np.ones((2, 4, 8, 7), np.float32), "g": np.ones((5, 3), np.float32)}
    convolution, product, gemm = 2 * 6 * 8 * 7 * (2 * 9), 2 * 6 * 8 * 5 * 7, 3 * 4 * 5
    assert count_macs(path, feeds) == convolution + product + gemm


def test_without_onnx_nothing_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert count_macs(tmp_path / "none.onnx", {}) is None


def volume(image: np.ndarray, label: np.ndarray) -> Volume:
    return Volume(0, 0, image.astype(np.int16), label.astype(np.uint8), None)


def test_quality_of_known_volumes(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    image = np.full((4, *manifest.grid.shape), 500)
    label = np.zeros(manifest.grid.shape)
    label[4:8, 4:8, 2:4] = 1
    shifted = np.roll(label, 2, axis=0)
    wanted = {"volume_ml": 2 * 32 * manifest.grid.voxel_ml, "x": 6 / 16, "y": 6 / 16, "z": 3 / 8}
    same = compare([volume(image, label)], [volume(image, label)], [wanted], manifest)
    assert same.psnr_db is None
    assert same.dice == {"ncr": 1.0, "ed": 1.0, "et": 1.0}
    assert same.volume_error == pytest.approx(0.5)
    assert same.centre_error_mm == pytest.approx(0.0, abs=1e-9)
    assert (same.without_tumour, same.off_volume) == (0, 1)
    as_asked = compare(
        [volume(image, label)], [volume(image, label)], [wanted | {"volume_ml": wanted["volume_ml"] / 2}], manifest
    )
    assert (as_asked.without_tumour, as_asked.off_volume) == (0, 0)
    other = compare([volume(image + 10, shifted)], [volume(image, label)], [wanted], manifest)
    assert other.psnr_db == pytest.approx(40.0)
    assert other.dice["ncr"] == pytest.approx(0.5)
    assert other.centre_error_mm == pytest.approx(2 * manifest.grid.spacing_mm[0])
    empty = compare([volume(image, 0 * label)], [volume(image, label)], [wanted], manifest)
    assert (empty.volume_error, empty.centre_error_mm) == (1.0, None)
    assert (empty.without_tumour, empty.off_volume) == (1, 0)


def test_the_gate_names_the_worst_component(tiny_bundle: Bundle) -> None:
    reference = choose_backend(tiny_bundle, "onnxruntime", threads=1)
    calls = calls_of(tiny_bundle, reference)
    steps = tiny_bundle.manifest.defaults.steps
    assert calls.a_volume == {"denoiser": steps, "aggregator": 1, "decoder": 1, "refiner": 1}
    assert check(tiny_bundle, reference, reference, calls.inputs).passed
    assert recorded_parity(tiny_bundle) == (True, "held to PyTorch when it was exported")

    class Off:
        name, device, precision, threads, version = "off", "cpu", "fp32", 1, "0"

        def run(self, component: str, inputs: dict) -> dict:
            made = reference.run(component, inputs)
            return {key: value + (0.1 if component == "decoder" else 0) for key, value in made.items()}

    gate = check(tiny_bundle, Off(), reference, calls.inputs)
    assert not gate.passed
    assert "decoder." in gate.reason
    assert {d.component for d in gate.departures if not d.passed} == {"decoder"}


def test_a_process_is_measured_by_its_own_memory() -> None:
    held = np.ones(60_000_000, np.float32)  # of this process, which the other's figure must not contain
    run = run_measured(["--version"])
    assert run.exit_code == 0, run.errors
    assert run.output.startswith("sbldm-engine ")
    assert 2**20 < run.peak_bytes < held.nbytes
    assert run_measured(["bench", "--steps", "0"]).exit_code != 0


def test_the_family_of_a_process_is_it_and_its_descendants() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()  # the grandchild runs
        assert len(family(parent.pid)) == 2
        assert set(family(parent.pid)) < set(family(os.getpid()))
        parent.communicate(b"\n")
