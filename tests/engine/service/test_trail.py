"""`verify` on the directory of a service: its trail is a chain that tells of every job that lies there."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.service.store import Reserved, Store

FIELDS = {
    "client": "local", "kind": "generate", "model": "m", "options": {}, "reading": {}, "strength": None,
    "state": "done",
}  # fmt: skip


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    """Three jobs of which one was removed: made, made, made, removed."""
    store = Store(tmp_path / "jobs")
    made = [store.create(FIELDS, None, lambda _: Reserved(1, 10)) for _ in range(3)]
    store.remove(made[0])
    store.close()
    return tmp_path / "jobs"


def test_a_whole_trail(jobs: Path, capsys) -> None:
    assert main(["verify", str(jobs)]) == 0
    assert "jobs of a service; audit trail: 4 lines, head " in capsys.readouterr().out
    assert main(["verify", str(jobs), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["service"], told["audit_lines"], told["faults"]) == (True, 4, [])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: lines[1:], "audit.jsonl:1: does not follow the line before it"),
        (lambda lines: [*lines[:1], *lines[2:]], "audit.jsonl:2: does not follow the line before it"),
        (lambda lines: [lines[0].replace(b"local", b"other"), *lines[1:]], "audit.jsonl:1: its sha256 does not fit"),
        (lambda lines: lines[:2], "does not tell of jobs/local/"),
        (lambda _: [], "does not tell of jobs/local/.* and 1 other jobs; lines were removed at its end"),
    ],
    ids=["first", "middle", "changed", "end", "all"],
)
def test_a_removed_or_changed_line_shows(jobs: Path, capsys, change: Callable, told: str) -> None:
    trail = jobs / "audit.jsonl"
    trail.write_bytes(b"".join(change(trail.read_bytes().splitlines(keepends=True))))
    assert main(["verify", str(jobs)]) == 3
    assert re.search(told, capsys.readouterr().err)


def test_a_trail_that_is_gone_shows(jobs: Path, capsys) -> None:
    (jobs / "audit.jsonl").unlink()
    assert main(["verify", str(jobs)]) == 3
    assert "audit.jsonl: missing; who made jobs is not known" in capsys.readouterr().err


def test_a_mark_beside_a_run_hides_nothing_of_it(jobs: Path, capsys) -> None:
    (jobs / "run.json").write_text("{}")
    assert main(["verify", str(jobs)]) == 3
    assert "was not written by sbldm-engine" in capsys.readouterr().err


def test_a_job_that_cannot_be_written_is_told_of_as_removed(
    jobs: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    store = Store(jobs)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store.folder, "write", full)
        with pytest.raises(OSError, match="No space"):
            store.create(FIELDS, None, lambda _: Reserved(1, 10))
    store.close()
    events = [json.loads(line)["event"] for line in (jobs / "audit.jsonl").read_text().splitlines()]
    assert events[-2:] == ["job made", "job removed"]
    assert main(["verify", str(jobs)]) == 0
