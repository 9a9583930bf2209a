"""`bench` on a tiny bundle, in process."""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
from pathlib import Path

import pytest
from sbldm.benchmarks import bench as bench_module
from sbldm.benchmarks.machine import FmaPeak, Machine
from sbldm.benchmarks.plan import make_plan, points_of
from sbldm.benchmarks.process import ProcessRun
from sbldm.cli.main import main
from sbldm.engine.backends.selection import stored_choice
from sbldm.engine.bundle.load import Bundle, load_bundle
from sbldm.engine.bundle.manifest import FittedSteps

from tests.support.host_device import HostDevice
from tests.support.schemas import held_to
from tests.support.toy import HostLoopBackend

FAST = [
    "--steps",
    "2",
    "--samplers",
    "ddim",
    "--volumes",
    "1",
    "--repeats",
    "1",
    "--reference-steps",
    "3",
    "--threads",
    "1",
    "--quiet",
]


@pytest.fixture(autouse=True)
def _light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No second of multiply-adds and no process a backend; an own cache; a quiet machine."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    machine = Machine("a CPU", 1, 1.0, False, None, FmaPeak(100.0, "test"))
    monkeypatch.setattr(bench_module, "describe_machine", lambda _: machine)
    monkeypatch.setattr(bench_module, "run_measured", lambda _: ProcessRun(1.0, 2**30, 0.0, 0, "", ""))
    monkeypatch.setattr("sbldm.benchmarks.machine.OtherLoad.cores", lambda _: 0.0)


def run(bundle: Path, *options: str) -> int:
    return main(["bench", "--bundle", str(bundle), *FAST, *options])


def test_figures_tables_picture_and_choice(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("matplotlib")
    out, picture, submitted = (tmp_path / name for name in ("bench.json", "bench.png", "submitted.json"))
    code = run(
        tiny_bundle.path,
        "--json",
        "--submit",
        str(submitted),
        "--out",
        str(out),
        "--plot",
        str(picture),
        "--backends",
        "onnxruntime,openvino:fp32",
        "--select",
    )
    printed = capsys.readouterr()
    assert code == 0, printed.err
    result = held_to("bench", printed.out)
    assert json.loads(out.read_text()) == result
    assert result["exit_code"] == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert result["complete"]
    assert [gate["passed"] for gate in result["gates"]] == [True, True]
    assert {f["component"] for f in result["components"]} == {
        "denoiser",
        "aggregator",
        "decoder",
        "refiner",
        "assemble",
    }
    assert all(f["gmac"] > 0 for f in result["components"] if f["component"] in ("denoiser", "decoder", "refiner"))
    points = {p["point"]["backend"]: p for p in result["points"]}
    assert points.keys() == {"onnxruntime", "openvino:fp32"}
    for point in points.values():
        assert point["volumes_a_second"] == pytest.approx(1 / point["timing"]["seconds"])
        assert point["quality"]["dice"].keys() == {"ncr", "ed", "et"}
        assert point["megabytes"] > 0
    choice = stored_choice(tiny_bundle, 1)
    assert choice is not None
    assert choice.seconds["denoiser"].keys() == {"onnxruntime", "openvino:fp32"}
    told = held_to("bench-submission", submitted.read_text())
    assert (told["points"], told["components"]) == (result["points"], result["components"])
    assert not any(name in submitted.read_text() for name in (platform.node(), str(tmp_path), str(tiny_bundle.path)))
    assert "look through it" in printed.err


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")
def test_a_gpu_is_held_to_the_cpu(
    tiny_bundle: Bundle, kernel_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the CPU's stand-in for one."""
    asked: list[tuple[object, ...]] = []

    def choose(*given: object, **_: object) -> HostLoopBackend:
        asked.append(given)
        return HostLoopBackend(tiny_bundle, HostDevice(kernel_folder))

    for module in ("benchmarks.plan", "engine.run.job"):
        monkeypatch.setattr(f"sbldm.{module}.choose_backend", choose)
    monkeypatch.setattr("sbldm.benchmarks.device_calls.milliseconds", lambda _stream, work: work() or 2.0)
    assert run(tiny_bundle.path, "--device", "cuda:0", "--backends", "onnxruntime", "--json") == 0
    result = held_to("bench", capsys.readouterr().out)
    assert asked[0][1:3] == ("onnxruntime", "cuda:0")
    (gate,) = result["gates"]
    assert gate["passed"]
    assert "largest departure from onnxruntime" in gate["reason"]
    assert result["plan"]["device"] == "cuda:0"
    assert not any(figure["fma_share"] for figure in result["components"])
    clocks = {figure["clock"]: figure["timing"]["seconds"] for figure in result["components"]}
    assert clocks["device"] == 0.002
    assert {f["component"] for f in result["components"] if f["clock"] == "host"} == {"assemble"}
    assert result["energy"]["gpu"].startswith("not measurable here: ")
    assert run(tiny_bundle.path, "--device", "cuda", "--select") == 2
    assert "on a GPU no clock chooses" in capsys.readouterr().err


def test_an_interrupted_benchmark_writes_what_it_has(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_module, "_measure_process", interrupt)
    out = tmp_path / "bench.json"
    submitted = tmp_path / "submitted.json"
    options = ["--out", str(out), "--submit", str(submitted), "--backends", "onnxruntime", "--select"]
    assert run(tiny_bundle.path, *options) == 130
    result = json.loads(out.read_text())
    assert result["complete"] is False
    assert len(result["points"]) == 1
    printed = capsys.readouterr()
    assert "INCOMPLETE" in printed.out
    assert not submitted.exists()
    assert "the benchmark was interrupted" in printed.err
    assert stored_choice(tiny_bundle, 1) is None


def test_a_backend_that_fails_the_gate_is_not_timed(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("sbldm.benchmarks.component_calls.RMS_LIMIT", {"fp32": 1e-12, "bf16": 1e-12})
    out = tmp_path / "bench.json"
    assert run(tiny_bundle.path, "--backends", "onnxruntime,openvino:fp32", "--out", str(out)) == 0
    printed, result = capsys.readouterr().out, json.loads(out.read_text())
    assert [gate["passed"] for gate in result["gates"]] == [True, False]
    assert {p["point"]["backend"] for p in result["points"]} == {"onnxruntime"}
    assert "| onnxruntime | fp32 | passed |" in printed
    assert "FAILED, not timed" in printed


def test_fitted_steps_are_points_of_their_own(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    fitted = tuple(FittedSteps(tuple(range(999, 999 - n, -1)), ((0.5, 0.5, 0.0),) * n) for n in (1, 3))
    schedule = dataclasses.replace(manifest.schedule, fitted=fitted)
    bundle = dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(manifest, schedule=schedule))
    for samplers, expected in (
        (None, [("ddim", 5), ("dpmpp-2m", 5), ("fitted", 1), ("fitted", 3)]),
        ("fitted", [("fitted", 1), ("fitted", 3)]),
        ("ddim", [("ddim", 5)]),
    ):
        plan = make_plan(
            bundle, backends="onnxruntime", steps="5", samplers=samplers, batches="1", volumes=1, repeats=1,
            reference_steps=9,
        )  # fmt: skip
        assert [(point.sampler, point.steps) for point in points_of(plan, ["onnxruntime"])] == expected


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--steps", ""], 2, "--steps"),
        (["--steps", "0"], 2, "from 1 to 1000"),
        (["--steps", "5,1001"], 2, "from 1 to 1000"),
        (["--steps", "5,x"], 2, "'x' is not allowed"),
        (["--samplers", "euler"], 2, "ddim, dpmpp-2m, fitted"),
        (["--samplers", "fitted"], 2, "--samplers fitted: this bundle has no fitted steps; give others"),
        (["--batch", "0"], 2, "--batch"),
        (["--repeats", "0"], 2, "--repeats"),
        (["--reference-steps", "2000"], 2, "--reference-steps"),
        (["--threads", "0"], 2, "--threads 0: must be from 1 to 1024"),
        (["--backends", "onnxruntime,"], 2, "--backends"),
        (["--backends", "torch"], 2, "--backend torch"),
        (["--out", "no/such/folder/x.json"], 2, "folder does not exist"),
        (["--submit", "no/such/folder/x.json"], 2, "--submit no/such/folder/x.json: its folder does not exist"),
        (["--submit", "."], 2, "--submit .: is there already, and submissions are not overwritten"),
        (["--submit", "x.json", "--out", "x.json"], 2, "--submit x.json: another output has this name"),
    ],
)
def test_bad_options(
    tiny_bundle: Bundle, options: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_bundle.path, *options) == code
    assert message in capsys.readouterr().err


def test_a_backend_that_is_not_installed(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    assert run(tiny_bundle.path, "--backends", "openvino") == 4
    assert "sbldm-engine[openvino]" in capsys.readouterr().err


def test_a_bundle_that_was_changed(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.path, copy)
    assert load_bundle(copy)
    with (copy / "decoder.onnx").open("ab") as stream:
        stream.write(b"x")
    assert run(copy) == 3
    assert "decoder.onnx" in capsys.readouterr().err
