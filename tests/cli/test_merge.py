from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle

from tests.support.commands import hashes
from tests.support.schemas import held_to


@pytest.fixture
def make(tiny_bundle: Bundle, tmp_path: Path):
    """Run `generate` for four samples into a folder of that name."""

    def call(name: str, *arguments: object) -> Path:
        fixed = [
            "generate",
            "--bundle",
            str(tiny_bundle.path),
            "--steps",
            "2",
            "--threads",
            "1",
            "--quiet",
            "--count",
            "4",
        ]
        assert main([*fixed, "--out", str(tmp_path / name), *map(str, arguments)]) == 0
        return tmp_path / name

    return call


def merge(out: Path, *directories: Path) -> int:
    return main(["merge", *map(str, directories), "--out", str(out)])


@pytest.mark.parametrize("layout", ["brats", "nnunet", "bids"])
def test_shards_become_the_single_run(make, tmp_path: Path, capsys, layout: str) -> None:
    whole = make("whole", "--layout", layout)
    shards = [make(f"s{i}", "--shard", f"{i}/2", "--layout", layout) for i in range(2)]
    capsys.readouterr()
    assert main(["merge", *map(str, shards), "--out", str(tmp_path / "out"), "--json"]) == 0
    result = held_to("merge", capsys.readouterr().out)
    assert (result["samples"], result["linked"], result["copied"]) == (4, 20, 0)
    assert hashes(tmp_path / "out") == hashes(whole)
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert merge(tmp_path / "out", *shards) == 0  # again, such as after a kill
    assert hashes(tmp_path / "out") == hashes(whole)


def test_files_are_copied_where_links_cannot_be_made(make, tmp_path: Path, capsys, monkeypatch) -> None:
    shards = [make(f"s{i}", "--shard", f"{i}/2") for i in range(2)]

    link = os.link

    def no_link(source: str, target: str, **options: object) -> None:
        if source.endswith(".gz"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target, **options)

    monkeypatch.setattr(os, "link", no_link)
    assert main(["merge", *map(str, shards), "--out", str(tmp_path / "out")]) == 0
    assert "20 copied" in capsys.readouterr().out
    monkeypatch.undo()
    assert main(["verify", str(tmp_path / "out")]) == 0


def test_in_place_with_another_directory(make, tmp_path: Path) -> None:
    shards = [make(f"s{i}", "--shard", f"{i}/2") for i in range(2)]
    assert merge(shards[0], *shards) == 0
    assert main(["verify", str(shards[0])]) == 0


def test_what_does_not_fit_together_is_refused(make, tmp_path: Path, capsys) -> None:
    first, second = make("s0", "--shard", "0/2"), make("s1", "--shard", "1/2")
    other, whole = make("other", "--shard", "1/2", "--seed", "9"), make("whole")
    out = tmp_path / "out"
    for directories, code, named in [
        ((first, other), 2, "seed: the run has 0, asked for 9"),
        ((first,), 3, "sample 1"),
        ((first, first), 2, "given twice"),
        ((first, whole), 3, "twice"),
        ((first, tmp_path / "nothing"), 3, "run.json"),
    ]:
        capsys.readouterr()
        assert merge(out, *directories) == code
        assert named in capsys.readouterr().err
        assert not out.exists()
    seg = second / "sbldm-000001/sbldm-000001_seg.nii.gz"
    seg.write_bytes(seg.read_bytes() + b"x")
    assert merge(out, first, second) == 3
    assert "sbldm-000001_seg.nii.gz is changed" in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    assert merge(out, first, second) == 2
    assert os.listdir(out) == ["thesis.txt"]
