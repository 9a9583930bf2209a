"""`generate` in-process on a tiny bundle: what it writes, what it refuses, and that every path gives the same bytes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.run.description import read_description

from tests.support.schemas import held_to

CSV = "id,volume_ml,x\na,20,0.5\nb,30,0.4\nc,,0.6\n"


@pytest.fixture
def run(tiny_bundle: Bundle) -> Callable[..., int]:
    """Run `generate` with the tiny bundle, three steps and what is given."""

    def call(*arguments: object) -> int:
        return main(
            ["generate", "--bundle", str(tiny_bundle.path), "--steps", "3", "--threads", "1", *map(str, arguments)]
        )

    return call


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "cond.csv"
    path.write_text(CSV)
    return path


def hashes(directory: Path, pattern: str = "*") -> dict[str, str]:
    return {
        p.relative_to(directory).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in directory.rglob(pattern)
        if p.is_file() and p.name != "audit.jsonl"  # which has a clock in it
    }


def test_run_directory_is_as_the_contract_says(run, table: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "deep" / "out"
    assert run("--count", 4, "--conditions", table, "--out", out, "--json") == 0
    captured = capsys.readouterr()
    result = held_to("generate", captured.out)
    assert (result["made"], result["failed"], result["exit_code"]) == (4, 0, 0)
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    images = {f"sbldm-{k:06d}/sbldm-{k:06d}_{m}.nii.gz" for k in range(4) for m in ("t1", "t1ce", "t2", "flair", "seg")}
    assert names == images | {"run.json", "ledger.jsonl", "manifest.csv", "audit.jsonl"}
    rows = list(csv.DictReader((out / "manifest.csv").open()))
    assert [r["id"] for r in rows] == ["a", "b", "c", "a-2"]
    assert [r["sample"] for r in rows] == ["0", "1", "2", "3"]
    assert rows[0]["requested_volume_ml"] == "20"
    assert rows[2]["drawn"].split(";")[0] == "volume_ml"
    for row in rows:
        for name, digest in zip(row["files"].split(";"), row["sha256"].split(";"), strict=True):
            assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    segmentation = nib.load(out / "sbldm-000000/sbldm-000000_seg.nii.gz")
    assert set(np.unique(np.asarray(segmentation.dataobj))) <= {0, 1, 2, 4}
    assert bytes(segmentation.header["descrip"]).startswith(b"SYNTHETIC sbldm-engine")
    image = np.asarray(nib.load(out / "sbldm-000000/sbldm-000000_t1.nii.gz").dataobj)
    assert image.dtype == np.int16
    assert image.min() >= 0
    assert image.max() <= 1000
    recorded = json.loads((out / "run.json").read_text())
    assert recorded["options"]["seed"] == 0
    assert recorded["resolved"]["batch_size"] == 1


def test_count_alone_draws_and_conditions_alone_make_one_sample_a_row(run, table: Path, tmp_path: Path) -> None:
    assert run("--count", 2, "--out", tmp_path / "drawn", "--quiet") == 0
    assert run("--conditions", table, "--out", tmp_path / "rows", "--quiet") == 0
    drawn = list(csv.DictReader((tmp_path / "drawn/manifest.csv").open()))
    assert [r["id"] for r in drawn] == ["0", "1"]
    assert len({r["requested_volume_ml"] for r in drawn}) == 2
    assert len(list(csv.DictReader((tmp_path / "rows/manifest.csv").open()))) == 3


def test_the_same_bytes_by_every_path(run, table: Path, tmp_path: Path) -> None:
    """Single run = workers = shards merged = resumed; any of its samples = --samples; count does not matter."""
    whole = tmp_path / "whole"
    asked = ("--conditions", table, "--count", 5, "--batch-size", 2, "--seed", 7, "--eta", 0.5, "--quiet")
    assert run(*asked, "--out", whole) == 0
    expected = hashes(whole)
    assert run(*asked, "--out", tmp_path / "workers", "--workers", 2) == 0
    assert hashes(tmp_path / "workers") == expected
    for index in range(2):
        assert run(*asked, "--out", tmp_path / f"shard{index}", "--shard", f"{index}/2") == 0
        assert run(*asked, "--out", tmp_path / "shared", "--shard", f"{index}/2") == 0
        assert not (tmp_path / "shared/manifest.csv").exists()
    assert main(["merge", str(tmp_path / "shard0"), str(tmp_path / "shard1"), "--out", str(tmp_path / "merged")]) == 0
    assert hashes(tmp_path / "merged") == expected
    assert main(["merge", str(tmp_path / "shared"), "--out", str(tmp_path / "shared")]) == 0
    assert {**hashes(tmp_path / "shared"), **expected} == hashes(tmp_path / "shared")
    assert run(*asked, "--out", tmp_path / "some", "--samples", "3,0-1") == 0
    some = hashes(tmp_path / "some", "*.nii.gz")
    assert len(some) == 15
    assert some.items() <= expected.items()
    assert run(*asked, "--out", tmp_path / "some", "--resume") == 0
    assert hashes(tmp_path / "some") == expected
    fewer = ("--conditions", table, "--count", 2, "--batch-size", 2, "--seed", 7, "--eta", 0.5, "--quiet")
    assert run(*fewer, "--out", tmp_path / "fewer") == 0
    assert hashes(tmp_path / "fewer", "*.nii.gz").items() <= expected.items()


def test_seed_and_conditions_change_the_samples(run, tmp_path: Path) -> None:
    for seed in (0, 1, 2**64 - 1):
        assert run("--count", 1, "--out", tmp_path / str(seed), "--seed", seed, "--quiet") == 0
    images = [
        hashes(tmp_path / str(seed), "*_t1.nii.gz")["sbldm-000000/sbldm-000000_t1.nii.gz"] for seed in (0, 1, 2**64 - 1)
    ]
    assert len(set(images)) == 3


def test_resume_makes_again_what_is_missing_changed_torn_or_left_over(run, tmp_path: Path, capsys) -> None:
    out, asked = tmp_path / "out", ("--count", 4, "--seed", 3)
    assert run(*asked, "--out", out, "--resume", "--quiet") == 0  # the directory does not exist yet
    expected = hashes(out)
    assert run(*asked, "--out", out, "--resume") == 0  # complete
    assert hashes(out) == expected
    (out / "sbldm-000000/sbldm-000000_t2.nii.gz").unlink()
    seg = out / "sbldm-000001/sbldm-000001_seg.nii.gz"
    seg.write_bytes(seg.read_bytes()[:-1] + b"\x01")
    (out / "sbldm-000002/sbldm-000002_t1.nii.gz.tmp").write_bytes(b"half")
    (out / "run.json.99.tmp").write_bytes(b"{")
    ledger = out / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-20])
    (out / "manifest.csv").unlink()
    capsys.readouterr()
    assert run(*asked, "--out", out, "--resume", "--json") == 0
    result = held_to("generate", capsys.readouterr().out)
    assert (result["made"], result["already_done"], result["changed"]) == (3, 1, 2)
    assert hashes(out) == expected


def test_a_directory_that_is_no_run_is_refused_and_left_as_it_is(run, tmp_path: Path, capsys) -> None:
    out, asked = tmp_path / "out", ("--count", 2, "--quiet")
    out.mkdir()
    (out / "run.json.7.tmp").write_bytes(b"{")  # of a kill before the start
    assert run(*asked, "--out", out, "--resume") == 0
    (out / "run.json").unlink()
    mine = tmp_path / "mine"
    mine.mkdir()
    for name, content in (("draft.tmp", "x"), ("ledger.jsonl", '{"my": "ledger"}'), ("run.json", '{"speed": 3}')):
        (mine / name).write_text(content)
    for directory, named in ((out, "no run.json"), (mine, "not written by sbldm-engine")):
        before = hashes(directory)
        for arguments in (asked, (*asked, "--resume"), (*asked, "--resume", "--shard", "0/2")):
            capsys.readouterr()
            assert run(*arguments, "--out", directory) == 2
            assert hashes(directory) == before
        assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("--seed", 4), "seed: the run has 3, asked for 4"),
        (("--count", 3), "count: the run has 2, asked for 3"),
        (("--guidance", 3), "guidance: the run has 1"),
        (("--sampler", "dpmpp-2m"), "sampler: the run has ddim, asked for dpmpp-2m"),
        (("--layout", "bids"), "layout"),
        (("--batch-size", 2), "batch-size: the run has 1, asked for 2"),
        (("--threads", 7), "threads: the run has 1, asked for 7"),
        (("--reject", 0.2), "reject"),
        (("--conditions", "CSV"), "conditions: the run has none"),
    ],
)
def test_resume_refuses_another_run_and_names_the_difference(run, table, tmp_path, capsys, changed, named) -> None:
    out = tmp_path / "out"
    assert run("--count", 2, "--seed", 3, "--out", out, "--quiet") == 0
    before = hashes(out)
    other = [table if value == "CSV" else value for value in changed]
    assert run("--count", 2, "--seed", 3, *other, "--out", out, "--resume") == 2
    assert named in capsys.readouterr().err
    assert hashes(out) == before


def test_resume_refuses_a_changed_table_and_names_the_line(run, table: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert run("--conditions", table, "--out", out, "--quiet") == 0
    table.write_text(CSV.replace("b,30", "b,31"))
    assert run("--conditions", table, "--out", out, "--resume") == 2
    assert "line 3" in capsys.readouterr().err


def test_resume_refuses_another_bundle(run, tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    assert run("--count", 1, "--out", out, "--quiet") == 0
    recorded = read_description(out)
    changed = replace(recorded, bundle=replace(recorded.bundle, sha256="0" * 64))
    (out / "run.json").write_bytes(changed.to_bytes())
    assert run("--count", 1, "--out", out, "--resume") == 2
    assert "bundle: the run has" in capsys.readouterr().err
    assert not other.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("--count", 0), 2, "--count 0"),
        (("--count", -3), 2, "--count -3"),
        ((), 2, "--count N, --conditions"),
        (("--count", 2, "--seed", -1), 2, "--seed -1"),
        (("--count", 2, "--seed", 2**64), 2, "--seed"),
        (("--count", 2, "--steps", 0), 2, "--steps 0"),
        (("--count", 2, "--steps", 10**6), 2, "--steps 1000000"),
        (("--count", 2, "--eta", 1.5), 2, "--eta"),
        (("--count", 2, "--eta", "nan"), 2, "--eta"),
        (("--count", 2, "--sampler", "euler"), 2, "allowed: ddim, dpmpp-2m, fitted"),
        (("--count", 2, "--layout", "dicomdir"), 2, "allowed: brats, nnunet, bids, dicom"),
        (("--count", 2, "--names", "2022"), 2, "allowed: 2021, 2023"),
        (("--count", 2, "--layout", "bids", "--names", "2023"), 2, "belongs to --layout brats"),
        (("--count", 2, "--grid", "mni"), 2, "allowed: native, brats, source"),
        (("--count", 2, "--shard", "2/2"), 2, "0 to N-1"),
        (("--count", 2, "--shard", "1"), 2, "I/N"),
        (("--count", 2, "--shard", "0/0"), 2, "--shard 0/0"),
        (("--count", 2, "--samples", "0,2"), 2, "0-1"),
        (("--count", 2, "--samples", "1-0"), 2, "1-0"),
        (("--count", 2, "--samples", "one"), 2, "3,7-9"),
        (("--count", 2, "--workers", 0), 2, "--workers 0"),
        (("--count", 2, "--batch-size", 0), 2, "--batch-size 0"),
        (("--count", 2, "--batch-size", "many"), 2, "--batch-size many"),
        (("--count", 2, "--threads", 0), 2, "--threads 0"),
        (("--count", 2, "--reject", 0), 2, "--reject"),
        (("--count", 2, "--backend", "jax"), 2, "--backend jax"),
        (("--count", 2, "--device", "tpu"), 2, "--device tpu"),
        (("--count", 2, "--log-format", "xml"), 2, "text, json"),
        (("--count", 2, "--conditions", "/nonexistent.csv"), 3, "no such file"),
        (("--count", 2, "--bundle", "/nonexistent"), 3, "/nonexistent"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(run, tmp_path, capsys, arguments, code, named) -> None:
    out = tmp_path / "out"
    assert run(*arguments, "--out", out) == code
    captured = capsys.readouterr()
    assert named in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not out.exists()


def test_broken_table_names_file_line_column(run, tmp_path: Path, capsys) -> None:
    table = tmp_path / "cond.csv"
    table.write_text("id,volume_ml\na,-4\na,abc\n")
    assert run("--conditions", table, "--out", tmp_path / "out") == 3
    error = capsys.readouterr().err
    assert f"{table}:2: volume_ml" in error
    assert f"{table}:3: volume_ml" in error
    assert f"{table}:3: id" in error
    assert not (tmp_path / "out").exists()


def test_unusual_tumours_warn_and_strict_refuses(run, tmp_path: Path, capsys) -> None:
    table = tmp_path / "cond.csv"
    table.write_text("volume_ml,x,y,z\n900,0.9,0.1,0.9\n")
    assert run("--conditions", table, "--out", tmp_path / "strict", "--strict") == 3
    assert not (tmp_path / "strict").exists()
    assert f"{table}:2" in capsys.readouterr().err
    assert run("--conditions", table, "--out", tmp_path / "out", "--quiet") == 0
    assert "warning" in capsys.readouterr().err


def test_an_empty_mask_fails_its_sample_and_is_told_by_row(
    run, table: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    """The second mask of the run comes out empty; gone on with, it is made again."""
    made = list[int]()

    def second_empty(label: np.ndarray) -> np.ndarray:
        made.append(1)
        return np.zeros_like(label) if len(made) == 2 else label

    arguments = ("--count", 3, "--conditions", table, "--out", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("sbldm.engine.sampling.decoding.drop_small_components", second_empty)
        assert run(*arguments, "--json") == 5
    told = capsys.readouterr()
    assert {k: json.loads(told.out)[k] for k in ("made", "failed", "without_tumour")} == {
        "made": 2, "failed": 1, "without_tumour": 1,
    }  # fmt: skip
    assert "1 of 3 failed because no tumour came out: b; " in told.err
    assert [r["id"] for r in csv.DictReader((tmp_path / "out" / "manifest.csv").open())] == ["a", "c"]
    assert run(*arguments, "--resume", "--quiet") == 0


def test_directories_that_hold_files_are_refused(run, tmp_path: Path, capsys) -> None:
    (tmp_path / "out").mkdir()
    assert run("--count", 1, "--out", tmp_path / "out", "--quiet") == 0  # empty
    before = hashes(tmp_path / "out")
    assert run("--count", 1, "--out", tmp_path / "out") == 2
    assert "holds files" in capsys.readouterr().err
    assert hashes(tmp_path / "out") == before
    (tmp_path / "file").write_text("x")
    assert run("--count", 1, "--out", tmp_path / "file") == 2
    assert run("--count", 1, "--out", tmp_path / "file" / "below") == 2
    assert run("--count", 1, "--out", tmp_path / ("n" * 300)) == 2
    assert (tmp_path / "file").read_text() == "x"


def test_a_shard_joins_its_fellows_but_no_other_run(run, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert run("--count", 4, "--out", out, "--shard", "0/2", "--quiet") == 0
    assert run("--count", 4, "--out", out, "--shard", "0/2") == 2
    assert run("--count", 4, "--out", out, "--shard", "1/2", "--seed", 5) == 2
    assert "seed" in capsys.readouterr().err
    assert run("--count", 4, "--out", out, "--shard", "1/2", "--quiet") == 0
    assert run("--count", 4, "--out", out, "--resume", "--quiet") == 0  # the whole run takes what its shards made
    assert len(list(csv.DictReader((out / "manifest.csv").open()))) == 4


def test_quiet_and_streams(run, tmp_path: Path, capsys) -> None:
    assert run("--count", 1, "--out", tmp_path / "a", "--quiet") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "1 sample made" in captured.out
    assert run("--count", 1, "--out", tmp_path / "b", "--log-format", "json") == 0
    captured = capsys.readouterr()
    events = [json.loads(line) for line in captured.err.splitlines()]
    assert [e["event"] for e in events][:2] == ["started", "sample made"]
    assert all("of 1" in e["event"] and e["level"] == "warning" for e in events[2:])  # how the sample came out
    assert run("--count", 1, "--out", tmp_path / "c") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "info: started done=0 to_make=1"
    assert all(line.startswith("warning: ") for line in lines[1:])  # of a sample, nothing


def test_preview_is_a_picture_that_is_named(run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    assert run("--count", 2, "--out", tmp_path / "a", "--preview", "--quiet") == 0
    assert capsys.readouterr().out.splitlines()[1:] == [f"preview: {tmp_path / 'a/preview.png'}"]
    assert run("--count", 2, "--out", tmp_path / "a", "--resume", "--report", "--quiet", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["report"] == str(tmp_path / "a/report.html")
    assert "preview" not in result
    with Image.open(tmp_path / "a/preview.png") as picture:
        picture.load()
        assert picture.width > picture.height > 100
        assert len(set(picture.convert("L").tobytes())) > 50


def test_metrics_file(run, tmp_path: Path) -> None:
    assert run("--count", 2, "--out", tmp_path / "a", "--metrics-file", tmp_path / "m.prom", "--quiet") == 0
    lines = (tmp_path / "m.prom").read_text().splitlines()
    assert "sbldm_volumes_done_total 2" in lines
    assert "# TYPE sbldm_stage_seconds_total counter" in lines
    assert any(line.startswith('sbldm_stage_seconds_total{stage="write"} ') for line in lines)


def test_reject_keeps_the_best_draw_and_says_so(run, tmp_path: Path) -> None:
    """A random model never hits a tumour: all attempts are used, and the kept one is the nearest of them."""
    asked = ("--count", 2, "--seed", 5, "--quiet")
    assert run(*asked, "--out", tmp_path / "a", "--reject", 0.1, "--attempts", 3) == 0
    rows = list(csv.DictReader((tmp_path / "a/manifest.csv").open()))
    assert [r["within_tolerance"] for r in rows] == ["false", "false"]
    assert run(*asked, "--out", tmp_path / "b", "--reject", 0.1, "--attempts", 3, "--workers", 2) == 0
    assert hashes(tmp_path / "b") == hashes(tmp_path / "a")
    assert run(*asked, "--out", tmp_path / "plain") == 0
    plain = list(csv.DictReader((tmp_path / "plain/manifest.csv").open()))
    for kept, first in zip(rows, plain, strict=True):
        error = [abs(float(r["measured_volume_ml"]) / float(r["requested_volume_ml"]) - 1) for r in (kept, first)]
        assert error[0] <= error[1]
        assert (kept["attempt"] == "0") == (kept["sha256"] == first["sha256"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_without_write_permission(run, tmp_path: Path, capsys) -> None:
    (tmp_path / "locked").mkdir(mode=0o555)
    assert run("--count", 1, "--out", tmp_path / "locked" / "out") == 2
    assert "cannot be written" in capsys.readouterr().err
