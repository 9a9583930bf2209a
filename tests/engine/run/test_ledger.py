"""Ledger lines: bound to their run by a checksum, decoded strictly, torn ends dropped, the open file the named one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sbldm.engine import new_files
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import IncompleteRunError, InvalidInputError, UsageError
from sbldm.engine.folder import Folder
from sbldm.engine.run.description import Resolved, RunDescription, describe
from sbldm.engine.run.ledger import (
    QUALITY,
    FileEntry,
    Ledger,
    LedgerIndex,
    SampleRecord,
    Shard,
    parse_line,
    quiet_ledgers,
)
from sbldm.engine.run.request import GenerateRequest


@pytest.fixture(scope="session")
def run(tiny_bundle: Bundle) -> RunDescription:
    options = GenerateRequest(bundle=tiny_bundle, count=12, steps=1).options()
    return describe(tiny_bundle, options, Resolved("stub", "cpu", "fp32", 1, 1, "isal-1"), {"stub": "1"}, None)


def record(run: RunDescription, sample: int, attempt: int = 0, fault: str | None = None) -> SampleRecord:
    columns = run.bundle.columns
    paths = run.layout().paths(sample).values()
    files = () if fault else tuple(FileEntry(path, "ab" * 32, 10 + attempt) for path in paths)
    measured = {} if fault else {name: None for name in (*columns, *QUALITY)}
    return SampleRecord(
        sample, f"id-{sample}", attempt, dict.fromkeys(columns, 0.5), ("x",), measured, files, None, fault
    )


def write(directory: Path, run: RunDescription, name: str, *lines: bytes) -> LedgerIndex:
    """The index of a directory whose ledger holds these lines."""
    (directory / "run.json").write_bytes(run.to_bytes())
    (directory / name).write_bytes(b"".join(lines))
    return LedgerIndex.of(directory)


def test_records_survive_a_round_trip(run: RunDescription, tmp_path: Path) -> None:
    made = [record(run, sample) for sample in range(3)]
    with Folder(tmp_path) as folder, Ledger(folder, "ledger.jsonl", run) as ledger:
        for one in made:
            ledger.append(one)
    index = write(tmp_path, run, "ledger.jsonl", (tmp_path / "ledger.jsonl").read_bytes())
    assert list(index.records()) == made
    assert not index.faults


def test_every_flipped_bit_costs_the_line_and_is_named(run: RunDescription, tmp_path: Path) -> None:
    """Every seventh bit of one line, so each kind of place: none is accepted with other content."""
    good = record(run, 3).to_line(run.id)
    accepted = 0
    for position in range(0, 8 * (len(good) - 1), 7):
        line = bytearray(good)
        line[position // 8] ^= 1 << position % 8
        try:
            parse_line(bytes(line), run)
            accepted += 1
        except InvalidInputError:
            pass
    assert accepted == 0
    bad = good.replace(b"id-3", b"id-4")
    index = write(tmp_path, run, "ledger.jsonl", record(run, 1).to_line(run.id), bad)
    assert list(index.places) == [1]
    assert index.faults == [
        "ledger.jsonl:2: its checksum does not fit the run and its content; the sample of this line counts as not made"
    ]


def test_a_line_of_another_run_is_not_of_this_one(run: RunDescription) -> None:
    other = replace(run, options=replace(run.options, seed=9))
    with pytest.raises(InvalidInputError, match="checksum"):
        parse_line(record(run, 0).to_line(other.id), run)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sample": 77}, "sample 77 of a run of 12"),
        ({"sample": -1}, "sample -1"),
        ({"sample": "1"}, "must be a whole number"),
        ({"files": []}, "its files are not those"),
        ({"files": [{"path": "/etc/passwd", "sha256": "ab" * 32, "bytes": 1}] * 5}, "its files are not those"),
        ({"measured": None}, "must be an object"),
        ({"measured": {}}, "its measurements"),
        ({"requested": {}}, "its conditions"),
        ({"drawn": ["colour"]}, "its conditions"),
        ({"attempt": 99}, "attempt 99"),
        ({"id": "\x1b]0;x\x07"}, "cannot be printed"),
        ({"id": "\ud800"}, "cannot be printed"),
        ({"fault": "blank"}, "files of a sample that failed"),
        ({"more": 1}, "unknown key"),
    ],
)
def test_what_the_run_cannot_have_made_is_refused_though_its_checksum_fits(
    run: RunDescription, change: dict[str, object], named: str
) -> None:
    data = json.loads(record(run, 1).to_line(run.id))
    data.pop("checksum")
    text = json.dumps({**data, **change}, separators=(",", ":"))
    checksum = hashlib.sha256(f"{run.id}\n{text}".encode()).hexdigest()[:32]
    with pytest.raises(InvalidInputError, match=named):
        parse_line(f'{text[:-1]},"checksum":"{checksum}"}}\n'.encode(), run)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 6000), junk=st.binary(max_size=20))
def test_any_torn_end_costs_only_the_torn_line(
    run: RunDescription, tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes
) -> None:
    directory = tmp_path_factory.mktemp("torn")
    whole = b"".join(record(run, sample).to_line(run.id) for sample in range(4))
    write(directory, run, "ledger.jsonl", whole[:cut], junk.replace(b"\n", b"?"))
    with Folder(directory) as folder, Ledger(folder, "ledger.jsonl", run) as ledger:
        ledger.append(record(run, 9))
    index = LedgerIndex.of(directory)
    assert sorted(index.places) == [*range(whole[:cut].count(b"\n")), 9]
    assert not index.faults


def test_lines_that_are_no_records_are_passed_over_and_named(run: RunDescription, tmp_path: Path) -> None:
    junk = b"{}\n\0\0\0\n[1]\n" + b"x" * (3 << 20) + b"\n" + b"[" * 10**5 + b"\n"
    lines = [record(run, sample).to_line(run.id) for sample in (0, 1)]
    index = write(tmp_path, run, "ledger.jsonl", lines[0], junk, lines[1])
    assert sorted(index.places) == [0, 1]
    assert [fault.partition(":")[2].partition(":")[0] for fault in index.faults] == ["2", "3", "4", "5", "6"]


def test_a_second_writer_is_refused_and_the_lock_ends_with_the_first(run: RunDescription, tmp_path: Path) -> None:
    with Folder(tmp_path) as folder:
        with Ledger(folder, "ledger.jsonl", run) as ledger:
            ledger.append(record(run, 0))
            with pytest.raises(UsageError, match="another process"), Ledger(folder, "ledger.jsonl", run):
                pass
            with pytest.raises(UsageError, match="still writing"), quiet_ledgers(folder):
                pass
        with Ledger(folder, "ledger.jsonl", run) as ledger:
            ledger.append(record(run, 1))
    assert (tmp_path / "ledger.jsonl").read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("how", ["replaced", "removed", "appended", "cut"])
def test_the_open_ledger_must_be_the_one_on_disk(run: RunDescription, tmp_path: Path, how: str) -> None:
    path = tmp_path / "ledger.jsonl"
    with Folder(tmp_path) as folder, Ledger(folder, "ledger.jsonl", run) as ledger:
        ledger.append(record(run, 0))
        if how == "replaced":
            (tmp_path / "other").write_bytes(path.read_bytes())
            os.replace(tmp_path / "other", path)
        elif how == "removed":
            path.unlink()
        elif how == "appended":
            path.write_bytes(path.read_bytes() * 2)
        else:
            os.truncate(path, 5)
        with pytest.raises(IncompleteRunError, match="replaced or changed"):
            ledger.append(record(run, 1))


def test_a_line_that_does_not_fit_is_taken_back(run: RunDescription, tmp_path: Path, monkeypatch) -> None:
    path, write_bytes = tmp_path / "ledger.jsonl", os.write
    left = [7, 3]

    def little_room(descriptor: int, data: bytes) -> int:
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(descriptor, data[: left.pop()])

    with Folder(tmp_path) as folder, Ledger(folder, "ledger.jsonl", run) as ledger:
        ledger.append(record(run, 0))
        monkeypatch.setattr(new_files.os, "write", little_room)
        with pytest.raises(OSError, match="No space") as caught:
            ledger.append(record(run, 1))
        assert caught.value.errno == errno.ENOSPC
        monkeypatch.undo()
        assert path.read_bytes() == record(run, 0).to_line(run.id)


def test_index_takes_the_last_record_of_all_ledgers_in_order(run: RunDescription, tmp_path: Path) -> None:
    first = [record(run, 4), record(run, 0), record(run, 4, 1)]
    write(tmp_path, run, "ledger-0-of-2.jsonl", *(one.to_line(run.id) for one in first))
    write(tmp_path, run, "ledger-x.jsonl", record(run, 7).to_line(run.id))
    index = write(tmp_path, run, "ledger-1-of-2.jsonl", record(run, 1, fault="blank").to_line(run.id))
    assert list(index.records()) == [record(run, 0), record(run, 1, fault="blank"), record(run, 4, 1)]
    assert list(index.records([4])) == [record(run, 4, 1)]


def test_tidy_sorts_and_drops_what_was_superseded(run: RunDescription, tmp_path: Path) -> None:
    name = Shard(1, 3).ledger_name
    assert name == "ledger-1-of-3.jsonl"
    lines = [record(run, 4), record(run, 0), record(run, 4, 1)]
    write(tmp_path, run, name, lines[0].to_line(run.id), b"junk\n", *(one.to_line(run.id) for one in lines[1:]))
    path = tmp_path / name
    with Folder(tmp_path) as folder:
        with Ledger(folder, name, run) as ledger:
            ledger.tidy()
        assert path.read_bytes() == record(run, 0).to_line(run.id) + record(run, 4, 1).to_line(run.id)
        inode = path.stat().st_ino
        with Ledger(folder, name, run) as ledger:
            ledger.tidy()
        assert path.stat().st_ino == inode
