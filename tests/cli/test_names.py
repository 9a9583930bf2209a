"""What people expect of a command line: short help, choices, completion, progress, files named by id."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from sbldm.cli import _progress
from sbldm.cli.main import COMMANDS, app, main
from sbldm.cli.train import PRESETS
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.telemetry import EventLog


@pytest.fixture
def run(tiny_bundle: Bundle) -> Callable[..., int]:
    fixed = ["generate", "--bundle", str(tiny_bundle.path), "--steps", "1", "--threads", "1", "--quiet"]
    return lambda *arguments: main([*fixed, *map(str, arguments)])


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["conditions", "measure"], ["data", "check"]])
def test_h_is_help_and_flags_show_no_type(command: list[str], capsys) -> None:
    assert main([*command, "-h"]) == 0
    told = capsys.readouterr().out
    assert "--help" in told
    assert "bool" not in told


def test_help_of_generate_is_grouped_and_shows_choices(capsys, monkeypatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 160)
    assert main(["generate", "-h"]) == 0
    told = capsys.readouterr().out
    for panel in ("The run", "Sampling", "Files", "What is shown"):
        assert f"─ {panel} ─" in told
    for words in (
        "ddim|dpmpp-2m|fitted", "auto|onnxruntime|openvino|tensorrt", "brats|nnunet|bids|dicom", "2021|2023",
        "sample|id", "native|brats|source", "text|json",
    ):  # fmt: skip
        assert f"[{words}]" in told


def completed(line: str) -> tuple[list[str], list[str]]:
    """What bash is offered after `line`, and the packages that were imported for it."""
    words = line.split(" ")
    shell = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_SBLDM_ENGINE_COMPLETE": "complete_bash"}
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('\\n'.join(sys.modules), file=sys.stderr))\n"
        "sys.argv[0] = 'sbldm-engine'\n"
        "from sbldm.cli.main import run; run()"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **shell}, capture_output=True, text=True, check=True
    )
    return found.stdout.split(), found.stderr.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sbldm-engine ev", ["evaluate"]),
        ("sbldm-engine generate --sampler ", ["ddim", "dpmpp-2m", "fitted"]),
        ("sbldm-engine generate --count 3 --name", ["--names", "--name-by"]),
        ("sbldm-engine inspect ph", ["phantom"]),
        ("sbldm-engine conditions ", ["check", "measure", "sample"]),
        ("sbldm-engine train --stage d", ["denoiser", "distill"]),
    ],
)
def test_a_shell_completes_and_imports_nothing_heavy(line: str, offered: list[str]) -> None:
    """150 ms a completion: what takes longer is not imported."""
    found, imported = completed(line)
    assert found == offered
    assert not {"numpy", "pydantic", "onnxruntime", "torch", "matplotlib", "rich", "nibabel"} & {*imported}


def test_completion_can_be_installed() -> None:
    names = {name for parameter in typer.main.get_command(app).params for name in parameter.opts}
    assert {"--install-completion", "--show-completion", "--version"} <= names


def test_presets_of_the_help_exist(capsys) -> None:
    assert {"phantom", "glioma", "isbi2024", "cmig2025"} <= set(PRESETS)


def test_a_pipe_gets_a_line_for_the_first_sample_and_then_one_a_minute(monkeypatch, capsys) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(_progress.time, "monotonic", lambda: clock.now)
    directory = SimpleNamespace(done=10, todo=range(90), ledger_faults=[], changed=[])
    with _progress.run_progress(EventLog(), quiet=False) as (opened, recorded):
        opened(directory)  # type: ignore[arg-type]
        for sample in range(90):
            clock.now += 25
            fault = "no tumour" if sample == 0 else None
            recorded(SimpleNamespace(sample=sample, fault=fault, attempt=0))  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert lines[:4] == [
        "info: started done=10 to_make=90",
        "error: sample failed sample=0 fault=no tumour",
        "info: first sample made, 25 s each, about 37 min left",
        "info: 15 of 100 samples, 25 s each, about 35 min left",
    ]
    assert len(lines) == 2 + 30
    assert not any("100 of 100" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "said"), [(4.4, "4 s"), (89, "89 s"), (91, "2 min"), (5400, "1 h 30 min"), (200_000, "2 d 8 h")]
)
def test_durations(seconds: float, said: str) -> None:
    assert _progress.duration(seconds) == said


def names_in(directory: Path) -> set[str]:
    return {path.name.removesuffix(".nii.gz") for path in directory.rglob("*.nii.gz")}


def test_files_are_named_by_id_and_every_command_finds_them(run, tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    table, out = tmp_path / "cond.csv", tmp_path / "out"
    table.write_text("id,volume_ml\nleft-1,20\n,30\n")
    asked = ("--conditions", table, "--count", 3, "--name-by", "id")
    assert run(*asked, "--out", out, "--workers", 2, "--preview") == 0
    cases = ("left-1", "1", "left-1-2")
    assert names_in(out) == {f"sbldm-{c}_{m}" for c in cases for m in ("t1", "t1ce", "t2", "flair", "seg")}
    recorded = json.loads((out / "run.json").read_text())
    assert (recorded["options"]["name_by"], recorded["row_ids"]) == ("id", ["left-1", ""])
    assert [row["id"] for row in csv.DictReader((out / "manifest.csv").open())] == list(cases)
    assert main(["verify", str(out)]) == 0
    (out / "sbldm-left-1" / "sbldm-left-1_t2.nii.gz.123.tmp").write_bytes(b"")
    (out / "sbldm-left-1-2" / "sbldm-left-1-2_t1.nii.gz").unlink()
    assert run(*asked, "--out", out, "--resume") == 0
    assert main(["verify", str(out)]) == 0
    for shard in range(2):
        assert run(*asked, "--out", tmp_path / f"s{shard}", "--shard", f"{shard}/2") == 0
    assert main(["merge", str(tmp_path / "s0"), str(tmp_path / "s1"), "--out", str(tmp_path / "merged")]) == 0
    assert (tmp_path / "merged/manifest.csv").read_bytes() == (out / "manifest.csv").read_bytes()
    capsys.readouterr()
    assert run(*asked[:4], "--out", out, "--resume") == 2
    assert "name-by: the run has id, asked for sample" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("table", "more", "code", "message"),
    [
        ("id\na/b\n", (), 3, "cond.csv:2: id: a/b: letters A-Z"),
        ("id\na\nA\n", (), 3, "cond.csv:3: id: A: an id that differs from 'a'"),
        ("id\na-b\n", ("--layout", "bids"), 3, "cond.csv:2: id: a-b: letters and digits alone"),
        ("id\nab\n", ("--layout", "bids", "--count", 2), 2, "2 samples of 1 rows"),
    ],
)
def test_ids_that_cannot_name_files_are_refused(run, tmp_path: Path, capsys, table, more, code, message) -> None:
    (tmp_path / "cond.csv").write_text(table)
    asked = ("--conditions", tmp_path / "cond.csv", "--name-by", "id", *more)
    assert run(*asked, "--out", tmp_path / "out") == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_crafted_id_in_run_json_names_no_file(run, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    (tmp_path / "cond.csv").write_text("id\nab\n")
    assert run("--conditions", tmp_path / "cond.csv", "--name-by", "id", "--out", out) == 0
    import dataclasses

    from sbldm.engine.run.description import read_description

    crafted = dataclasses.replace(read_description(out), row_ids=("../../ab",))
    (out / "run.json").write_bytes(crafted.to_bytes())
    assert main(["verify", str(out)]) == 3
    assert "row_ids[0]: must be letters" in capsys.readouterr().err
