from __future__ import annotations

import os
from pathlib import Path

import pytest
from sbldm.engine.files import atomic_file, clear_temporaries, create_exclusively, make_folders, write_atomic


def test_write_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_write_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_file(path) as handle:
            handle.write(b"half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_create_exclusively_never_replaces(tmp_path: Path) -> None:
    assert create_exclusively(tmp_path / "run.json", b"first")
    assert not create_exclusively(tmp_path / "run.json", b"second")
    assert (tmp_path / "run.json").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["run.json"]


def test_clear_temporaries_asks_for_each(tmp_path: Path) -> None:
    make_folders(tmp_path / "a" / "b", tmp_path)
    for name in ("x.1.tmp", "a/y.tmp", "a/b/z.tmp", "a/b/z.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    removed = clear_temporaries(tmp_path, lambda name: not name.startswith("y"))
    assert sorted(p.name for p in removed) == ["x.1.tmp", "z.tmp"]
    assert (tmp_path / "a/y.tmp").exists()
    assert (tmp_path / "a/b/z.nii.gz").exists()
