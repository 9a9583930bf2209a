"""What a submission holds, what it leaves out, and the page that is made of some."""

from __future__ import annotations

import dataclasses
import json
import runpy
from pathlib import Path

import pytest
from sbldm.benchmarks.bench import BenchResult, ComponentFigure, PointFigure, ProcessFigure, start
from sbldm.benchmarks.component_calls import Gate
from sbldm.benchmarks.machine import FmaPeak, Machine
from sbldm.benchmarks.plan import Point, make_plan
from sbldm.benchmarks.quality import Quality
from sbldm.benchmarks.submission import command_of, require_new, submission, write_new
from sbldm.benchmarks.timing import Energy, Run, summarise
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import UsageError

from tests.support.schemas import held_to

ROOT = Path(__file__).parents[2]
QUIET, BUSY = Run(2.0, 0.0), Run(3.0, 1.5)


def result_of(bundle: Bundle) -> BenchResult:
    """Two backends on two points, one of them timed on a busy machine."""
    plan = make_plan(
        bundle, device="cuda:1", backends="onnxruntime,tensorrt", steps="2", samplers="ddim", batches="1", volumes=1,
        repeats=2, reference_steps=9, threads=3,
    )  # fmt: skip
    result = start(bundle, plan)
    result.complete = True
    result.machine = Machine("a CPU", 8, 7.5, False, "a GPU | of mine", FmaPeak(None, "test"), 80.0, "580.1")
    result.energy = {"cpu": "RAPL: package-0", "gpu": "NVML: the whole board"}
    result.gates = [
        Gate("onnxruntime", "fp32", True, "/home/jane/models/parity.json: passed", ()),
        Gate("tensorrt", "fp16", True, "near enough", ()),
    ]
    quality = Quality(30.0, {"ncr": 0.9, "ed": 0.8, "et": 1.0}, 0.1, 2.0, 0, 0)
    steps = bundle.manifest.defaults.steps
    for backend, runs in (("onnxruntime", [QUIET, BUSY]), ("tensorrt", [BUSY, BUSY])):
        timing = summarise(runs)
        result.components.append(ComponentFigure(backend, "denoiser", timing, 1.5, None, 2.0, "device"))
        point = Point(backend, bundle.manifest.defaults.sampler, steps, 1)
        energy = {"cpu": Energy(40.0, 20.0)}
        result.points.append(PointFigure(point, "fp32", timing, 0.5, {"sample": 1.0}, 4.0, quality, energy))
        result.processes.append(ProcessFigure(backend, 4.0, 700.0, 0.0))
    return result


def test_a_submission_says_everything_but_whose_it_is(tiny_bundle: Bundle) -> None:
    text = json.dumps(submission(result_of(tiny_bundle), tiny_bundle, str(tiny_bundle.path)))
    told = held_to("bench-submission", text)
    assert told["command"] == (
        "sbldm-engine bench --bundle BUNDLE --device cuda:1 --backends onnxruntime,tensorrt --steps 2 --samplers ddim "
        "--batch 1 --volumes 1 --repeats 2 --reference-steps 9 --threads 3"
    )
    assert told["bundle"]["sha256"] == tiny_bundle.sha256
    assert (told["threads"], told["machine"]["threads"]) == (3, 8)
    assert told["samples"] == {"taken": 10, "busy": 6}
    assert told["gates"][0]["reason"] == "parity.json: passed"
    assert "jane" not in text
    assert str(tiny_bundle.path) not in text


def test_folders_of_the_model_with_blanks_in_their_names_are_left_out(tiny_bundle: Bundle) -> None:
    bundle = dataclasses.replace(tiny_bundle, path=Path("/mnt/Klinik Nord/Jane Doe/model"))
    result = result_of(tiny_bundle)
    result.gates = [Gate("openvino", "bf16", False, f"{bundle.path / 'decoder.onnx'}: cannot be loaded", ())]
    text = json.dumps(submission(result, bundle, str(bundle.path)))
    assert "Nord" not in text
    assert "Jane" not in text


def test_a_model_that_came_with_the_program_is_named(tiny_bundle: Bundle) -> None:
    plan = dataclasses.replace(result_of(tiny_bundle).plan, threads=None)
    assert command_of(plan, "phantom").startswith("sbldm-engine bench --bundle phantom --device")
    assert "--threads" not in command_of(plan, "phantom")


def test_a_submission_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    write_new(path, b"first")
    for again in (lambda: require_new(path), lambda: write_new(path, b"second")):
        with pytest.raises(UsageError, match="is there already, and submissions are not overwritten"):
            again()
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"first"]
    with pytest.raises(UsageError, match="its folder does not exist"):
        require_new(tmp_path / "none" / "mine.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is there already"):
        require_new(tmp_path / "link.json")


def test_the_page_has_a_row_a_backend_and_marks_what_was_busy(tiny_bundle: Bundle, tmp_path: Path) -> None:
    made = submission(result_of(tiny_bundle), tiny_bundle, "phantom")
    peak = {"gflops": 99.8, "how": "a loop"}
    older_machine = {**made["machine"], "cpu": "an older CPU", "gpu": None, "fma_peak": peak}
    older = {**made, "date": "2025-01-01", "machine": older_machine}
    for name, data in (("a-mine.json", made), ("b-older.json", older), ("another.json", {"peers": []})):
        (tmp_path / name).write_text(json.dumps(data))
    (tmp_path / "list.json").write_text("[]")
    page = runpy.run_path(str(ROOT / "docs" / "make_results.py"))["page"]
    lines = page(tmp_path).splitlines()
    first = lines.index("## With each bundle's own steps")
    rows = [line.split(" | ") for line in lines[first + 4 : first + 8]]
    assert [row[0] for row in rows] == ["| an older CPU, 3 cores"] * 2 + ["| a CPU, 3 cores"] * 2
    assert [row[3:9] for row in rows[2:]] == [
        ["onnxruntime fp32", "1", "2.00", "0.500", "cpu 40", "700"],
        ["tensorrt fp32", "1", "3.00*", "0.500", "cpu 40", "700"],
    ]
    assert rows[2][1] == "a GPU \\| of mine"
    assert lines[first + 8] == ""
    assert lines.index("## b-older") < lines.index("## a-mine")
    assert "- **busy**: 6 of 10 samples" in lines
    assert [line.partition(" GiB")[2] for line in lines if line.startswith("- 202")] == [
        ", float32 peak 100 GFLOP/s",
        "",
    ]
    assert "| denoiser | tensorrt | 3000.0* | 3000.0-3000.0 | device | 2 | 1.50 |" in lines
    assert "No submission is here yet." in page(tmp_path / "none")
