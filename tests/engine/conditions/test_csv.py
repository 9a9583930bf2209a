"""Condition files: what is read, and every fault of a file named with its line, column, value and what is allowed."""

from __future__ import annotations

import csv
import io
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sbldm.engine.conditions.columns import BINARY_COLUMNS, COLUMNS, Conditions
from sbldm.engine.conditions.csv import conditions_csv, format_number, parse_conditions, read_conditions
from sbldm.engine.conditions.file import ConditionFile
from sbldm.engine.errors import InvalidInputError

VIEW = (192.0, 192.0, 153.6)
GOOD = "id,volume_ml,x,y,z\na,12.5,0.5,0.4,\nb,,.3,1e-1,0.5\n"


def whole(file: ConditionFile) -> Conditions:
    """All rows of a file."""
    ids, rows = zip(*(file.at(row) for row in range(len(file))), strict=True)
    return Conditions(file.columns, ids, np.array(rows), (), file.source)


def parse(text: str | bytes, columns: tuple[str, ...] = COLUMNS) -> Conditions:
    return whole(parse_conditions(text.encode() if isinstance(text, str) else text, "cond.csv", columns, VIEW))


def faults(text: str | bytes, columns: tuple[str, ...] = COLUMNS) -> list[str]:
    with pytest.raises(InvalidInputError) as caught:
        parse(text, columns)
    return str(caught.value).splitlines()


def test_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "cond.csv"
    path.write_text(GOOD)
    file = read_conditions(path, COLUMNS, VIEW)
    read = whole(file)
    assert read.ids == ("a", "b")
    expected = np.full((2, 12), np.nan)
    expected[0, [0, 3, 4]] = 12.5, 0.5, 0.4
    expected[1, [3, 4, 5]] = 0.3, 0.1, 0.5
    np.testing.assert_array_equal(read.values, expected)
    assert file.given() == "volume_ml 1, x 2, y 2, z 1"


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        GOOD + "\n \n",
        GOOD.replace("12.5", ' "12.5" ').replace(' "', '"').replace('" ', '"'),
        GOOD.replace(",", " , "),
        "z,y,x,volume_ml,id\n,0.4,0.5,12.5,a\n0.5,0.1,0.3,,b\n",
    ],
)
def test_the_same_table_in_other_clothes(text: str) -> None:
    read, plain = parse(text), parse(GOOD)
    assert read.ids == plain.ids
    np.testing.assert_array_equal(read.values, plain.values)


def test_a_row_that_asks_for_nothing_but_has_a_name_is_a_row() -> None:
    read = parse("id,x\na,\nb,\n")
    assert len(read) == 2
    assert np.isnan(read.values).all()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["1: header: empty file: a header row"]),
        ("\n\n", ["1: header: empty file: a header row"]),
        ("0.5,0.3\n0.1,0.2\n", ["1: header: 0.5,0.3: a header row"]),
        ("x;y\n0.5;0.3\n", ["1: header: x;y: columns separated by commas"]),
        ("id,volume_ml\n", ["1: rows: no data rows: at least one row"]),
        ("id,volume\na,3\n", ["1: volume: column 2: not a condition of this model; did you mean volume_ml?"]),
        ("id,,x\na,3,.5\n", ["1: unnamed column: column 2: not a condition"]),
        ("x,y,x\n.1,.2,.3\n", ["1: x: column 3: each column once; it is already column 1"]),
        ("id,x\na,.1\nb\nc,.1,\n", ["3: row: 1 cells: 2 cells", "4: row: 3 cells: 2 cells"]),
        ("x\nabc\n", ["2: x: abc: a number, 0 to 1"]),
        ('x\n"0,5"\n', ["2: x: 0,5: a number, 0 to 1 of the field of view; write a decimal point"]),
        ("x,y\nnan,inf\n", ["2: x: nan: a number", "2: y: inf: a number"]),
        ("volume_ml,x\n1_0,٠.٥\n", ["2: volume_ml: 1_0: a number", "2: x: ٠.٥: a number"]),
        ("volume_ml\n1e400\n", ["2: volume_ml: 1e400: a number"]),
        ("volume_ml\n-5\n", ["2: volume_ml: -5: 0.1 to 1415.58 ml"]),
        ("id,x\na,.1\n,.1\na,.2\n", ["4: id: a: each id once; it is already on line 2"]),
        ('id,x\n"a\nb",.1\nc,7\n', ["2: id: a\\nb: one line", "4: x: 7: 0 to 1"]),
        ('x,y\n.1,".2\n', ["2: quotes: unexpected end of data"]),
        ("ncr_share,ed_share,et_share\n.3,.3,.3\n", ["2: ncr_share, ed_share, et_share: sum 0.9: sum 1 within 0.001"]),
        ("volume_ml,w,h,d\n20,.1,.1,.1\n", ["2: volume_ml: 20: at most 5.662 ml, the volume of its box"]),
    ],
)
def test_faults_are_named(text: str, expected: list[str]) -> None:
    found = faults(text)
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(f"cond.csv:{start}")


@pytest.mark.parametrize(
    ("data", "start"),
    [
        ("id\na\nJ\xe9\n".encode("latin-1"), "cond.csv:3: encoding: byte 0xe9: UTF-8 text"),
        (GOOD.encode("utf-16"), "cond.csv:1: encoding: UTF-16: UTF-8 text"),
        (b"id,x\na,\0\n", "cond.csv:2: encoding: a NUL byte: UTF-8 text"),
        (bytes(range(256)), "cond.csv:"),
    ],
)
def test_other_encodings_are_refused(data: bytes, start: str) -> None:
    assert faults(data)[0].startswith(start)


def test_a_model_without_tissue_labels_says_so() -> None:
    (line,) = faults("ncr_share,x\n1,.5\n", BINARY_COLUMNS)
    assert "no tissue labels" in line


def test_all_faults_at_once_the_first_twenty_told_in_order() -> None:
    rows = "".join(f"{k},-1,2,abc\n" for k in range(50))
    told = faults("id,volume_ml,x,y\n" + rows)
    assert len(told) == 21
    assert [line.split(":")[1] for line in told[:20]] == [str(2 + k // 3) for k in range(20)]
    assert told[20] == "cond.csv: 150 faults in all, the first 20 are shown"


def test_a_million_columns_are_refused_without_reading_on() -> None:
    header = ",".join(f"c{k}" for k in range(10**6))
    told = faults(f"{header}\n{'1,' * (10**6 - 1)}1\n")
    assert len(told) == 21
    assert "1000000 faults in all" in told[-1]


def test_a_huge_cell_is_cut_in_the_message() -> None:
    (line,) = faults("x\n" + "9" * 100_000 + "\n")
    assert len(line) < 200
    assert "(100000 characters)" in line


def test_a_hundred_thousand_rows() -> None:
    rows = "".join(f"case-{k},{1 + k % 100},0.5\n" for k in range(100_000))
    read = parse("id,volume_ml,x\n" + rows)
    assert len(read) == 100_000
    assert read.values[99_999, 0] == 100


@pytest.mark.parametrize(("name", "message"), [("missing.csv", "no such file"), (".", "a directory")])
def test_what_is_no_file(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_conditions(tmp_path / name, COLUMNS, VIEW)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InvalidInputError, match=r"pipe: cannot be read \(not a regular file\)"):
        read_conditions(pipe, COLUMNS, VIEW)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (math.nan, ""),
        (137.9110001, "137.911"),
        (1e-7, "0.0000001"),
        (1234567.0, "1234570"),
        (2, "2"),
    ],
)
def test_numbers_are_written_plainly(value: float, text: str) -> None:
    assert format_number(value) == text


@settings(deadline=None)
@given(
    volumes=st.lists(st.one_of(st.just(math.nan), st.floats(0.1, 1000)), min_size=1, max_size=5),
    ids=st.lists(st.text(min_size=1, max_size=8), min_size=5, max_size=5, unique_by=str.strip),
)
def test_what_is_written_is_read_again(volumes: list[float], ids: list[str]) -> None:
    ids = [name.strip() if name.isprintable() else "" for name in ids][: len(volumes)]
    ids = [name or ("named" if math.isnan(volume) else "") for name, volume in zip(ids, volumes, strict=True)]
    assume(len({name for name in ids if name}) == sum(map(bool, ids)))
    values = np.full((len(volumes), len(COLUMNS)), np.nan)
    values[:, 0] = volumes
    read = parse(conditions_csv(COLUMNS, ids, values))
    assert list(read.ids) == ids
    np.testing.assert_allclose(read.values[:, 0], volumes, rtol=1e-5)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutations_never_end_in_another_error(data: st.DataObject) -> None:
    text = bytearray(GOOD.encode() * data.draw(st.integers(1, 3)))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text)))
        piece = data.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b",", b'"', b"\r", b"\n", b"e9", b"-", b"\0"]))
        )
        text[at : at + data.draw(st.integers(0, 4))] = piece
    try:
        read = parse(bytes(text))
    except InvalidInputError as error:
        lines = str(error).splitlines()
        assert 1 <= len(lines) <= 21
        assert all(line.startswith("cond.csv:") for line in lines)
    else:
        records = [
            cells for cells in csv.reader(io.StringIO(text.decode("utf-8-sig"), newline="")) if "".join(cells).strip()
        ]
        assert 1 <= len(read) <= len(text.splitlines())
        assert len(records) <= len(read) + 1
