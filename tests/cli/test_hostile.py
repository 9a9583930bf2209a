"""Wrong and hostile directories, ledgers, bundles, tables: exit codes hold, and only what is the run's changes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.folder import Folder
from sbldm.engine.run.description import read_description
from sbldm.engine.run.ledger import FileEntry, LedgerIndex, lock_ledger
from sbldm.engine.run.manifest import row

from tests.support.crash import State, lay_out, snapshot
from tests.support.stub_runs import make_run, stub_plan

TOLD = {0, 2, 3, 4, 5}  # every exit code but 1 and those of signals


def generate(bundle: Path, out: Path, *more: object) -> list[str]:
    fixed = ["generate", "--bundle", str(bundle), "--steps", "1", "--threads", "1", "--quiet", "--count", "2"]
    return [*fixed, "--backend", "onnxruntime", "--out", str(out), *map(str, more)]


@pytest.fixture(scope="module")
def complete(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A complete run of two samples, and the table it was made from."""
    place = tmp_path_factory.mktemp("complete")
    table = place / "cond.csv"
    table.write_text("id,volume_ml,x\na,20,0.5\n=cmd|' /C calc'!A0,30,0.4\n")
    assert main(generate(tiny_bundle.path, place / "out", "--conditions", table)) == 0
    return place / "out", table


def forged(out: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite the ledger of a run with records changed by somebody who knows how checksums are made."""
    run = read_description(out)
    lines = [change(record).to_line(run.id) for record in LedgerIndex.of(out).records()]
    (out / "ledger.jsonl").write_bytes(b"".join(lines))


@pytest.mark.parametrize("kind", ["documents", "its ledger", "its json", "a link"])
def test_directories_that_are_no_runs_are_the_same_afterwards(
    tiny_bundle: Bundle, complete: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    out, _ = complete
    mine = tmp_path / "mine"
    content: State = {"draft.tmp": b"x", "thesis/ch1.txt": b"years", "sbldm-000000/sbldm-000000_t1.nii.gz": b"mine"}
    if kind == "its ledger":
        content |= {"ledger.jsonl": b'{"my": "ledger"'}
    if kind == "its json":
        content |= {"run.json": b'{"speed": 3}', "manifest.csv": b"a,b\n"}
    lay_out(content, mine)
    if kind == "a link":
        (mine / "manifest.csv").symlink_to(mine / "draft.tmp")
    before = snapshot(mine)
    for arguments in (
        generate(tiny_bundle.path, mine),
        generate(tiny_bundle.path, mine, "--resume"),
        generate(tiny_bundle.path, mine, "--resume", "--shard", "0/2"),
        ["merge", str(out), "--out", str(mine)],
        ["merge", str(mine), "--out", str(tmp_path / "merged")],
        ["verify", str(mine)],
        generate(tiny_bundle.path, tmp_path / "n", "--layout", "nnunet", "--add-to", mine, "--resume"),
    ):
        assert main(arguments) in (2, 3)
        assert snapshot(mine) == before
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("path", ["/absolute", "../outside", "sbldm-000000/../../outside", "run.json"])
def test_a_ledger_that_names_other_files_moves_nothing(
    complete: tuple[Path, Path], tmp_path: Path, capsys, path: str
) -> None:
    out = Path(shutil.copytree(complete[0], tmp_path / "out"))
    victim = tmp_path / "outside"
    victim.write_bytes(b"mine")
    target = str(victim) if path == "/absolute" else path
    forged(out, lambda r: replace(r, files=(FileEntry(target, hashlib.sha256(b"mine").hexdigest(), 4), *r.files[1:])))
    assert main(["merge", str(out), "--out", str(tmp_path / "merged")]) == 3
    assert main(["verify", str(out)]) == 3
    assert "its files are not those of this sample" in capsys.readouterr().err
    assert victim.read_bytes() == b"mine"


def test_a_flipped_bit_is_named_and_the_sample_is_made_again(
    tiny_bundle: Bundle, complete: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    out, table = Path(shutil.copytree(complete[0], tmp_path / "out")), complete[1]
    lines = (out / "ledger.jsonl").read_bytes()
    (out / "ledger.jsonl").write_bytes(lines.replace(b'"volume_ml":', b'"volume_mm":', 1))
    assert main(["verify", str(out)]) == 3
    assert main(["merge", str(out), "--out", str(tmp_path / "merged")]) == 3
    capsys.readouterr()
    assert main(generate(tiny_bundle.path, out, "--conditions", table, "--resume")) == 0
    assert "ledger.jsonl:1: " in capsys.readouterr().err
    assert snapshot(out) == snapshot(complete[0])


def test_ids_that_a_spreadsheet_would_run_are_quoted(complete: tuple[Path, Path]) -> None:
    rows = (complete[0] / "manifest.csv").read_text().splitlines()
    assert rows[1].startswith("a,")
    assert rows[2].startswith("'=cmd|")
    run = read_description(complete[0])
    for record in LedgerIndex.of(complete[0]).records():
        assert row(record, run.options.seed, run.bundle.columns)[0].lstrip("'") == record.id


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["modalities"].__setitem__(0, "t/../../../victim/scan"),
        lambda m: m["modalities"].__setitem__(0, "../x"),
        lambda m: m["labels"].__setitem__(1, "\x1b]0;x\x07"),
        lambda m: m["grid"].__setitem__("spacing_mm", [0.001, 1.0, 1.0]),
        lambda m: m["grid"].__setitem__("shape", [4096, 4096, 4096]),
        lambda m: m["modalities"].__setitem__(0, "seg"),
        lambda m: m["modalities"].__setitem__(0, "t2"),
    ],
)
def test_a_hostile_bundle_is_refused(tiny_bundle: Bundle, tmp_path: Path, capsys, change: Callable[[Any], Any]) -> None:
    bundle = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    manifest = json.loads((bundle / "bundle.json").read_text())
    change(manifest)
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    before = snapshot(tmp_path)
    assert main(generate(bundle, tmp_path / "out")) == 3
    assert main(["inspect", str(bundle)]) == 3
    told = capsys.readouterr()
    assert "\x1b" not in told.err + told.out
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("how", ["pipe", "device", "link", "hard link"])
def test_bundles_hold_plain_files_alone(tiny_bundle: Bundle, tmp_path: Path, how: str) -> None:
    bundle = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    for name in ("bundle.json", "README.md", "decoder.onnx"):
        kept = tmp_path / "kept"
        (bundle / name).rename(kept)
        if how == "pipe":
            os.mkfifo(bundle / name)
        elif how == "device":
            (bundle / name).symlink_to("/dev/zero")
        elif how == "link":
            (bundle / name).symlink_to(kept)
        elif name != "bundle.json":
            os.link(kept, bundle / name)
        else:
            kept.rename(bundle / name)
            continue
        assert main(["inspect", str(bundle)]) == 3
        (bundle / name).unlink()
        kept.rename(bundle / name)
    assert main(["inspect", str(bundle)]) == 0


def test_text_of_a_bundle_cannot_drive_the_screen(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    bundle = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["intended_use"] = "research\x1b]0;owned\x07\x9b2J\u202egnihton"
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    assert main(["inspect", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "research\\x1b]0;owned\\x07\\x9b2J\\u202egnihton" in shown
    assert not any(c in shown for c in "\x1b\x07\x9b\u202e")


@pytest.mark.parametrize("what", ["pipe", "/dev/zero", "folder"])
def test_tables_and_records_are_regular_files(
    tiny_bundle: Bundle, complete: tuple[Path, Path], tmp_path: Path, what: str
) -> None:
    out = Path(shutil.copytree(complete[0], tmp_path / "out"))
    for path in (tmp_path / "cond.csv", out / "run.json", out / "ledger.jsonl"):
        path.unlink(missing_ok=True)
        if what == "pipe":
            os.mkfifo(path)
        elif what == "folder":
            path.mkdir()
        else:
            path.symlink_to(what)
    assert main(generate(tiny_bundle.path, tmp_path / "new", "--conditions", tmp_path / "cond.csv")) == 3
    assert main(["verify", str(out)]) == 3
    assert main(generate(tiny_bundle.path, out, "--resume")) in (2, 3)


def test_outputs_that_cannot_be_are_refused_before_the_start(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    assert main(generate(tiny_bundle.path, Path("/proc/x"))) == 2
    assert main(generate(tiny_bundle.path, tmp_path / "out", "--metrics-file", tmp_path / "no" / "m.prom")) == 2
    assert "--metrics-file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_merges_at_once(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    plan = stub_plan(tiny_bundle, 1)
    make_run(tiny_bundle, plan, tmp_path / "run")
    (tmp_path / "out").mkdir()
    with Folder(tmp_path / "out") as folder:
        folder.write("run.json", plan.to_bytes())
        other = lock_ledger(folder, "ledger.jsonl")
        assert main(["merge", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
        assert "another process" in capsys.readouterr().err
        other.close()
    assert main(["merge", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0


def test_a_run_of_the_version_before_is_refused_with_what_to_do(
    tiny_bundle: Bundle, complete: tuple[Path, Path], tmp_path: Path, capsys
) -> None:
    out = Path(shutil.copytree(complete[0], tmp_path / "out"))
    data = json.loads((out / "run.json").read_text())
    data.pop("sha256")
    (out / "run.json").write_text(json.dumps({**data, "schema_version": 1}))
    before = snapshot(out)
    for arguments in (["verify", str(out)], generate(tiny_bundle.path, out, "--resume")):
        assert main(arguments) == 3
        assert "finish the run with the version that started it" in capsys.readouterr().err
    assert snapshot(out) == before


def mutated(draw: st.DataObject, data: bytes) -> bytes:
    """Bytes with one wound: a flipped bit, a cut, a slice twice, a number changed, a hostile word."""
    at = draw.draw(st.integers(0, max(len(data) - 1, 0)))
    kind = draw.draw(st.sampled_from(("bit", "cut", "twice", "number", "word")))
    if kind == "bit":
        return data[:at] + bytes([data[at] ^ 1 << draw.draw(st.integers(0, 7))]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "twice":
        return data[:at] + data[at : at + 40] + data[at:]
    if kind == "number":
        found = next((k for k in range(at, len(data)) if data[k : k + 1].isdigit()), at)
        return data[:found] + draw.draw(st.sampled_from((b"-1", b"1e999", b"0", b"99999999999"))) + data[found + 1 :]
    return data[:at] + draw.draw(st.sampled_from((b"null", b"[]", b"\x00", b"../", b"NaN", b"\xff"))) + data[at:]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data(), name=st.sampled_from(("ledger.jsonl", "run.json", "manifest.csv", "cond.csv", "mask", "scan")))
def test_wounded_files_never_end_in_a_wrong_manifest(
    tiny_bundle: Bundle,
    complete: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
    draw: st.DataObject,
    name: str,
) -> None:
    """Verify, resume and merge with the wounded file: a told exit code, nothing outside, 0 for right bytes alone."""
    place = tmp_path_factory.mktemp("wounded")
    out, table = Path(shutil.copytree(complete[0], place / "out")), place / "cond.csv"
    shutil.copy(complete[1], table)
    files = {"mask": "sbldm-000001/sbldm-000001_seg.nii.gz", "scan": "sbldm-000000/sbldm-000000_t2.nii.gz"}
    wounded = table if name == "cond.csv" else out / files.get(name, name)
    before = wounded.read_bytes()
    wounded.write_bytes(mutated(draw, before))
    expected, hurt = snapshot(complete[0]), wounded.read_bytes() != before
    code = main(["verify", str(out)])
    assert code in TOLD
    assert code or not hurt or name == "cond.csv"
    code = main(["merge", str(out), "--out", str(place / "merged")])
    assert code in TOLD
    if code == 0:
        assert snapshot(place / "merged") == expected
    code = main(generate(tiny_bundle.path, out, "--conditions", table, "--resume"))
    assert code in TOLD
    if code == 0:
        assert snapshot(out) == expected
    assert {path.name for path in place.iterdir()} <= {"out", "merged", "cond.csv"}
    assert code or not (hurt and name == "cond.csv")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.data())
def test_wounded_bundles_never_write_outside(
    tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("wounded")
    bundle = Path(shutil.copytree(tiny_bundle.path, place / "bundle"))
    (bundle / "bundle.json").write_bytes(mutated(draw, (bundle / "bundle.json").read_bytes()))
    before = snapshot(bundle)
    assert main(generate(bundle, place / "out", "--samples", "0", "--sample-timeout", "60")) in TOLD
    assert snapshot(bundle) == before
    assert {path.name for path in place.iterdir()} <= {"bundle", "out"}
