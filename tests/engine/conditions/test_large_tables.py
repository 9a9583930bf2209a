"""Tables larger than memory should hold: read by pieces and whole arrays, to the same rows and the same messages."""

from __future__ import annotations

import re
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sbldm.engine.conditions import csv as tables
from sbldm.engine.conditions import plain
from sbldm.engine.conditions.columns import COLUMNS, request_of_sample
from sbldm.engine.conditions.csv import parse_conditions, read_conditions
from sbldm.engine.conditions.pieces import Digest, pieces
from sbldm.engine.conditions.plain import Cells, numbers, split
from sbldm.engine.errors import IncompleteRunError, InvalidInputError

VIEW = (192.0, 192.0, 153.6)
PLAIN = r"(?=.{1,19}$)[+-]?(\d+\.?\d*|\.\d+)"
LINES = ["a,12.5,0.5,0.4", "b,,.3,1e-1", '"c, d",20,0.5,0.5', '"e ""x""",+7.25,.5,0.50', ",30,,", "f , 40,0.5,0.5", "",
         ",,,", "ä,50,0.6,0.4", "a,60,0.5,0.5", "g,-1,2,abc", "h,5", 'i,"7', "j,1234567890123456789.5,0.3,0.3",
         "k,10.000000000000002,0.30000000000000004,0.1"]  # fmt: skip


def outcome(text: str) -> list[str] | list[tuple[str, list[float]]]:
    """The rows of a table, or its faults."""
    try:
        file = parse_conditions(text.encode(), "cond.csv", COLUMNS, VIEW)
    except InvalidInputError as error:
        return sorted(str(error).splitlines())
    rows = [request_of_sample(file, row) for row in range(len(file) + 2)]
    return [(name, np.nan_to_num(values, nan=-1).tolist()) for name, values in rows]


@settings(max_examples=80, deadline=None)
@given(
    lines=st.lists(st.sampled_from(LINES[:7] * 3 + LINES), min_size=1, max_size=25),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    size=st.integers(20, 200),
    closed=st.booleans(),
)
def test_pieces_and_arrays_change_neither_rows_nor_messages(
    lines: list[str], end: str, size: int, closed: bool
) -> None:
    text = end.join(["id,volume_ml,x,y", *lines]) + end * closed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "split", lambda *_: None)
        by_cells = outcome(text)
        patch.undo()
        patch.setattr("sbldm.engine.conditions.pieces.PIECE_BYTES", size)
        patch.setattr(tables, "PIECE_BYTES", size)
        patch.setattr(tables, "available_threads", lambda: 3)
        assert outcome(text) == by_cells


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(
        st.one_of(
            st.from_regex(r"[+-]?(\d{0,12}\.\d{0,12}|\d{1,19})", fullmatch=True),
            st.floats(0, 1e6, allow_subnormal=False).map(repr),
            st.text("0123456789.+-e", max_size=22),
        ),
        min_size=1,
    )
)
def test_numbers_of_arrays_are_those_of_float(texts: list[str]) -> None:
    texts = [text for text in texts if text.isascii()] or ["1"]
    values, others = numbers(Cells.of(texts))
    for k, text in enumerate(texts):
        if k in others:
            assert len(text) == 20 or not re.fullmatch(PLAIN, text)
        elif text:
            assert values[k] == float(text)
        else:
            assert np.isnan(values[k])


def test_every_piece_ends_where_a_record_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbldm.engine.conditions.pieces.PIECE_BYTES", 16)
    data = b'a,b\r\n"x\ny, ""z""\n",2\r\n' * 9 + b'p,"open'
    found = list(pieces(lambda at, size: data[at : at + size], "x"))
    assert b"".join(piece.data for piece in found) == data
    assert len(found) > 5
    for piece in found:
        assert data[: piece.offset].count(b"\n") + 1 == piece.line
        assert piece.data.startswith((b"a,", b'"x', b"p,"))


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbldm.engine.conditions.pieces.MAX_LINE_BYTES", 3 * 2**20)
    with pytest.raises(InvalidInputError, match=r"^cond.csv:2: row: longer than 3145728 bytes"):
        parse_conditions(b"x\n" + b"0" * (5 * 2**20), "cond.csv", COLUMNS, VIEW)


def test_an_id_that_comes_again_is_found_over_all_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbldm.engine.conditions.pieces.PIECE_BYTES", 256)
    names = [f"case-{k}" for k in range(400)] + [f"case-{k}" for k in range(50, 80)] + ["case-60"]
    text = "id,x\n" + "".join(f"{name},0.5\n" for name in names)
    with pytest.raises(InvalidInputError) as caught:
        parse_conditions(text.encode(), "cond.csv", COLUMNS, VIEW)
    told = str(caught.value).splitlines()
    assert told[0] == "cond.csv:402: id: case-50: each id once; it is already on line 52"
    assert told[19].startswith("cond.csv:421: id: case-69")
    assert told[20] == "cond.csv: 31 faults in all, the first 20 are shown"


def test_ids_of_equal_hash_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cells, "hashes", lambda cells: (cells.ends - cells.starts).astype(np.uint64))
    names = [f"{k:03d}" for k in range(120)]
    good = "id,x\n" + "".join(f"{name},0.5\n" for name in names)
    file = parse_conditions(good.encode(), "cond.csv", COLUMNS, VIEW)
    assert [file.at(row)[0] for row in range(120)] == names
    with pytest.raises(InvalidInputError) as caught:
        parse_conditions((good + "007,0.5\n").encode(), "cond.csv", COLUMNS, VIEW)
    assert str(caught.value) == "cond.csv:122: id: 007: each id once; it is already on line 9"


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "KEPT_BYTES", 0)
    monkeypatch.setattr("sbldm.engine.conditions.pieces.PIECE_BYTES", 2**16)
    path, rows = tmp_path / "cond.csv", 200_000
    path.write_text("id,volume_ml,x\n" + "".join(f"case-{k:06d},{1 + k % 100},0.5\n" for k in range(rows)))
    tracemalloc.start()
    try:
        file = read_conditions(path, COLUMNS, VIEW)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12e6  # the values alone take 19 MB, their ids as texts 13 more
    assert len(file) == rows
    assert request_of_sample(file, rows - 1)[0] == "case-199999"
    assert request_of_sample(file, rows + 7)[0] == "case-000007-2"
    assert file.has_id("case-123456")
    assert not file.has_id("case-200000")


def test_a_file_that_changes_while_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "KEPT_BYTES", 0)
    path = tmp_path / "cond.csv"
    path.write_text("volume_ml\n20\n30\n")
    file = read_conditions(path, COLUMNS, VIEW)
    path.write_text("volume_ml\n21\n30\n")
    with pytest.raises(IncompleteRunError, match="was changed while it was in use"):
        file.at(1)


def test_the_digest_of_a_large_file_stays_small() -> None:
    lines = [f"{k},0.5\r\n".encode() for k in range(100_000)]
    small, large = Digest(len(b"".join(lines))), Digest(400 * 2**20)
    for digest in (small, large):
        for k in range(0, len(lines), 999):  # in parts that are no multiple of what is summed together
            digest.update(b"".join(lines[k : k + 999]))
    assert small.lines() == "".join(f"{zlib.crc32(line[:-2]):08x}" for line in lines) + "00000000"
    each, sums = large.lines().split("*")
    assert int(each) == large.lines_a_sum == 128
    first = b"".join(lines[:128]).replace(b"\r", b"")[:-1]
    assert sums[:8] == f"{zlib.crc32(first):08x}"
    assert len(sums) == 8 * -(-len(lines) // 128)


def test_plain_rows_are_known_from_others() -> None:
    assert split(b"a,1\nb,2", 2) is not None
    for other in (b'a,"1"\n', b"a,1\n\n", b"a,1,\n", b"a\n", b"a, 1\n", b"a ,1\n", b",\n", b"\xc3\xa4,1\n", b"a\t,1\n"):
        assert split(other, 2) is None


def test_faults_of_many_pieces_are_the_first_and_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbldm.engine.conditions.pieces.PIECE_BYTES", 100)
    with pytest.raises(InvalidInputError) as caught:
        parse_conditions(b"x,y\n" + b"2,0.5\n" * 500 + b"0.5,3\n", "cond.csv", COLUMNS, VIEW)
    told = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in told[:20]] == [str(2 + k) for k in range(20)]
    assert told[20] == "cond.csv: 501 faults in all, the first 20 are shown"
