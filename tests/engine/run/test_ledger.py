from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sbldm.engine.errors import UsageError
from sbldm.engine.run.ledger import (
    FileEntry,
    Ledger,
    LedgerIndex,
    SampleRecord,
    Shard,
    parse_line,
    quiet_ledgers,
    read_ledger,
)


def record(sample: int, attempt: int = 0, fault: str | None = None) -> SampleRecord:
    files = () if fault else (FileEntry(f"s{sample}/a.nii.gz", "ab" * 32, 10 + attempt),)
    return SampleRecord(sample, f"id-{sample}", attempt, {"volume_ml": 20.0}, ("x",), {"x": None}, files, None, fault)


def test_records_survive_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        for sample in range(3):
            ledger.append(record(sample))
    assert [r for _, r in read_ledger(path)] == [record(0), record(1), record(2)]


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 1200), junk=st.binary(max_size=20))
def test_any_torn_end_costs_only_the_torn_line(tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes) -> None:
    path = tmp_path_factory.mktemp("torn") / "ledger.jsonl"
    whole = [record(sample).to_line() for sample in range(4)]
    path.write_bytes(b"".join(whole)[:cut] + junk.replace(b"\n", b"?"))
    with Ledger(path) as ledger:
        ledger.append(record(9))
    kept = [r.sample for _, r in read_ledger(path)]
    complete = b"".join(whole)[:cut].count(b"\n")
    assert kept == [*range(complete), 9]


def test_lines_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(record(0).to_line() + b"{}\n\0\0\0\n[1]\n" + record(1).to_line())
    assert [r.sample for _, r in read_ledger(path)] == [0, 1]
    assert parse_line(record(0).to_line()[:-1]) is None


def test_a_second_writer_is_refused_and_the_lock_ends_with_the_first(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with Ledger(path) as ledger:
        ledger.append(record(0))
        with pytest.raises(UsageError, match="another process"), Ledger(path):
            pass
        with pytest.raises(UsageError, match="still writing"), quiet_ledgers(tmp_path):
            pass
    with Ledger(path) as ledger:
        ledger.append(record(1))
    assert len(list(read_ledger(path))) == 2


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.jsonl"
    write = os.write
    with Ledger(path) as ledger:
        ledger.append(record(0))
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
        with pytest.raises(OSError, match="No space") as caught:
            ledger.append(record(1))
        assert caught.value.errno == errno.ENOSPC
        monkeypatch.undo()
        assert path.read_bytes() == record(0).to_line()


def test_index_takes_the_last_record_of_all_ledgers_in_order(tmp_path: Path) -> None:
    (tmp_path / "ledger-0-of-2.jsonl").write_bytes(record(4).to_line() + record(0).to_line() + record(4, 1).to_line())
    (tmp_path / "ledger-1-of-2.jsonl").write_bytes(record(1, fault="blank").to_line())
    (tmp_path / "ledger-x.jsonl").write_bytes(record(7).to_line())
    index = LedgerIndex.of(tmp_path)
    assert list(index.records()) == [record(0), record(1, fault="blank"), record(4, 1)]
    assert list(index.records([4])) == [record(4, 1)]


def test_tidy_sorts_and_drops_what_was_superseded(tmp_path: Path) -> None:
    path = tmp_path / Shard(1, 3).ledger_name
    assert path.name == "ledger-1-of-3.jsonl"
    path.write_bytes(record(4).to_line() + b"junk\n" + record(0).to_line() + record(4, 1).to_line())
    with Ledger(path) as ledger:
        ledger.tidy()
    assert path.read_bytes() == record(0).to_line() + record(4, 1).to_line()
    inode = path.stat().st_ino
    with Ledger(path) as ledger:
        ledger.tidy()
    assert path.stat().st_ino == inode
