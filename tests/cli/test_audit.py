"""Who did what to a run: the chain that shows what was removed or changed, purging, files for their owner alone."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.folder import Folder
from sbldm.engine.run.audit import FIRST, acting, append, check_chain

from tests.support.scans import arrays, write_case
from tests.support.schemas import held_to

Lines = list[bytes]


def generate(bundle: Bundle, out: Path, *more: object) -> int:
    fixed = ["generate", "--bundle", str(bundle.path), "--steps", "1", "--threads", "1", "--quiet"]
    return main([*fixed, "--out", str(out), *map(str, more)])


@pytest.fixture(scope="module")
def made(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run, gone on with once. Do not write to it."""
    out = tmp_path_factory.mktemp("made") / "out"
    assert generate(tiny_bundle, out, "--count", 2, "--samples", 1) == 0
    assert generate(tiny_bundle, out, "--count", 2, "--resume") == 0
    return out


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "audit.jsonl").read_text().splitlines()]


def test_each_call_leaves_a_line_before_and_one_after(made: Path, tiny_bundle: Bundle, capsys) -> None:
    told = events(made)
    assert [line["event"] for line in told] == ["generate started", "generate ended"] * 2
    assert told[0]["previous"] == FIRST
    first, last = told[0], told[-1]
    assert first["subject"]["bundle"]["sha256"] == tiny_bundle.sha256
    assert first["subject"]["samples"] == "1"
    assert first["command"][:2] == ["sbldm-engine", "generate"]
    assert first["process"] == os.getpid()
    assert last["outcome"] == {"selected": 2, "already_done": 1, "made": 1, "failed": 0, "interrupted": False}
    assert all(line["time"] and line["user"] and line["host"] for line in told)
    capsys.readouterr()
    assert main(["verify", str(made), "--json"]) == 0
    with Folder(made) as folder:
        chain = check_chain(folder)
    assert chain is not None
    result = held_to("verify", capsys.readouterr().out)
    assert (result["audit_lines"], result["audit_head"]) == (4, chain.head)


def changed(lines: Lines) -> Lines:
    return [lines[0], lines[1].replace(b'"made":1', b'"made":2'), *lines[2:]]


def forged(lines: Lines) -> Lines:
    """A line put in by somebody who knows how a line is hashed, and not how lines are chained."""
    import hashlib

    data = json.loads(lines[1]) | {"user": "somebody"}
    data.pop("sha256")
    content = json.dumps(data, separators=(",", ":"))
    own = hashlib.sha256(content.encode()).hexdigest()
    return [lines[0], f'{content[:-1]},"sha256":"{own}"}}\n'.encode(), *lines[2:]]


@pytest.mark.parametrize(
    ("wound", "named"),
    [
        (lambda lines: lines[1:], "audit.jsonl:1: does not follow"),
        (lambda lines: [lines[0], *lines[2:]], "audit.jsonl:2: does not follow"),
        (lambda lines: [*lines[:2], lines[0], *lines[2:]], "audit.jsonl:3: does not follow"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "audit.jsonl:1: does not follow"),
        (changed, "audit.jsonl:2: its sha256 does not fit"),
        (forged, "audit.jsonl:3: does not follow"),
        (lambda lines: lines[:-1], "lines were removed at its end"),
        (lambda lines: [*lines[:-1], lines[-1][:40]], "audit.jsonl:4: is no JSON"),
        (lambda lines: [*lines[:-1], lines[-1][:-1]], "audit.jsonl:4: its sha256"),
        (lambda lines: [b"[]\n", *lines], "audit.jsonl:1: is no event"),
        (lambda lines: [b"[" * 100_000 + b"\n", *lines], "audit.jsonl:1: is no JSON"),
        (lambda lines: [], "lines were removed at its end"),
    ],
)
def test_what_was_done_to_the_trail_shows(out: Path, capsys, wound: Callable[[Lines], Lines], named: str) -> None:
    trail = out / "audit.jsonl"
    trail.write_bytes(b"".join(wound(trail.read_bytes().splitlines(keepends=True))))
    assert main(["verify", str(out)]) == 3
    assert named in capsys.readouterr().err


def test_a_trail_that_is_gone_is_a_fault(out: Path, capsys) -> None:
    (out / "audit.jsonl").unlink()
    assert main(["verify", str(out)]) == 3
    assert "audit.jsonl: missing" in capsys.readouterr().err


def test_a_wound_stays_in_the_chain_whatever_follows(out: Path, tiny_bundle: Bundle) -> None:
    trail = out / "audit.jsonl"
    trail.write_bytes(b"".join(trail.read_bytes().splitlines(keepends=True)[1:]))
    assert generate(tiny_bundle, out, "--count", 2, "--resume") == 0
    assert main(["verify", str(out)]) == 3


def test_a_line_that_a_power_cut_tore_is_dropped(out: Path, tiny_bundle: Bundle) -> None:
    with (out / "audit.jsonl").open("ab") as trail:
        trail.write(b'{"previous":"ab')
    assert generate(tiny_bundle, out, "--count", 2, "--resume") == 0
    assert main(["verify", str(out)]) == 0


def test_what_fails_is_recorded_as_such(tiny_bundle: Bundle, tmp_path: Path, monkeypatch) -> None:
    from sbldm.engine.errors import IncompleteRunError
    from sbldm.engine.run import job

    def full(*_: object) -> None:
        raise IncompleteRunError("no room left")

    monkeypatch.setattr(job, "_in_process", full)
    assert generate(tiny_bundle, tmp_path / "out", "--count", 1) == 5
    last = events(tmp_path / "out")[-1]
    assert (last["event"], last["outcome"]) == ("generate failed", {"error": "IncompleteRunError", "exit_code": 5})


def test_a_merge_tells_of_its_parts(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for shard in range(2):
        assert generate(tiny_bundle, tmp_path / f"s{shard}", "--count", 2, "--shard", f"{shard}/2") == 0
    assert main(["merge", str(tmp_path / "s0"), str(tmp_path / "s1"), "--out", str(tmp_path / "all")]) == 0
    told = events(tmp_path / "all")
    assert [line["event"] for line in told] == ["merge started", "merge ended"]
    heads = []
    for shard in range(2):
        with Folder(tmp_path / f"s{shard}") as folder:
            heads.append(getattr(check_chain(folder), "head", None))
    assert told[0]["subject"]["parts"] == heads
    assert main(["verify", str(tmp_path / "all")]) == 0


def test_writers_of_one_trail_take_turns(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def write(number: int) -> None:
        with acting(("test", str(number)), client=f"c{number}"), Folder(tmp_path) as folder:
            append(folder, {"number": number}, "tested", None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    with Folder(tmp_path) as folder:
        chain = check_chain(folder)
    assert chain is not None
    assert (chain.lines, chain.faults) == (40, ())
    assert {line["client"] for line in events(tmp_path)} == {f"c{number}" for number in range(40)}
    assert all(line["client"] == f"c{line['subject']['number']}" for line in events(tmp_path))


def test_purge_leaves_the_trail_alone(out: Path, tiny_bundle: Bundle, capsys) -> None:
    (out / "manifest.csv.7.tmp").write_bytes(b"left by a kill")
    assert main(["purge", str(out), "--json"]) == 0
    result = held_to("purge", capsys.readouterr().out)
    assert (result["files"], result["foreign"]) == (10 + 3, [])
    assert [path.name for path in out.iterdir()] == ["audit.jsonl"]
    assert [line["event"] for line in events(out)[-2:]] == ["purge started", "purge ended"]
    assert main(["verify", str(out)]) == 0
    assert "the run was purged" in capsys.readouterr().out
    assert main(["purge", str(out)]) == 3
    lines = (out / "audit.jsonl").read_bytes().splitlines(keepends=True)
    (out / "audit.jsonl").write_bytes(b"".join([*lines[:2], *lines[3:]]))
    assert main(["verify", str(out)]) == 3
    (out / "audit.jsonl").write_bytes(b"".join(lines))
    assert generate(tiny_bundle, out, "--count", 1, "--resume") == 0
    assert main(["verify", str(out)]) == 0


def test_purge_touches_what_is_the_runs_alone(out: Path, tmp_path: Path, capsys) -> None:
    scan = "sbldm-000000/sbldm-000000_t1.nii.gz"
    os.link(out / scan, tmp_path / "copy.nii.gz")
    (out / "sbldm-000001" / "notes.txt").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "keep").write_text("mine")
    (out / "link").symlink_to(tmp_path / "elsewhere")
    assert main(["purge", str(out)]) == 5
    told = capsys.readouterr().err
    assert f"{scan}: is a hard link" in told
    assert "notes.txt: is no file of this run" in told
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert left == {"audit.jsonl", "link", "sbldm-000001/notes.txt"}
    assert (tmp_path / "elsewhere" / "keep").read_text() == "mine"
    assert (tmp_path / "copy.nii.gz").stat().st_size


def test_purge_refuses_what_is_no_run_and_what_is_being_made(out: Path, tmp_path: Path, capsys) -> None:
    from sbldm.engine.run.ledger import lock_ledger

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    assert main(["purge", str(tmp_path / "mine")]) == 3
    assert (tmp_path / "mine" / "file").exists()
    with Folder(out) as folder:
        held = lock_ledger(folder, "ledger.jsonl")
        assert main(["purge", str(out)]) == 2
        held.close()
    assert "another process is writing" in capsys.readouterr().err
    assert main(["verify", str(out)]) == 0


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_what_is_made_from_a_patient_is_for_its_owner_alone(tiny_bundle: Bundle, tmp_path: Path) -> None:
    case = write_case(tmp_path / "cases", "BraTS2021_00001", arrays())
    asked = ["--bundle", str(tiny_bundle.path), "--steps", "2", "--threads", "1", "--count", "1", "--quiet"]
    assert main(["augment", str(case), *asked, "--out", str(tmp_path / "one"), "--preview", "--report"]) == 0
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "one", *(tmp_path / "one").rglob("*"))}
    assert len(modes) == 1 + 1 + 5 + 6
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert os.umask(0) == 0
    assert events(tmp_path / "one")[0]["event"] == "augment started"
    assert generate(tiny_bundle, tmp_path / "two", "--count", 1) == 0
    assert stat.S_IMODE((tmp_path / "two" / "run.json").stat().st_mode) == 0o666
