from __future__ import annotations

import json
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle


@pytest.fixture
def out(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A complete run of three samples."""
    arguments = ["generate", "--bundle", str(tiny_bundle.path), "--steps", "2", "--threads", "1", "--quiet"]
    assert main([*arguments, "--count", "3", "--out", str(tmp_path / "out")]) == 0
    return tmp_path / "out"


def test_an_intact_run(out: Path, capsys) -> None:
    capsys.readouterr()
    assert main(["verify", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["samples"], result["files"], result["faults"], result["absent"]) == (3, 15, [], 0)


def damage_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change_attempt(manifest: Path) -> None:
    lines = manifest.read_text().splitlines(keepends=True)
    cells = lines[2].split(",")
    cells[3] = "4"
    manifest.write_text("".join([*lines[:2], ",".join(cells), *lines[3:]]))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda out: damage_byte(out / "sbldm-000001/sbldm-000001_t2.nii.gz"), "sbldm-000001_t2.nii.gz: its sha256"),
        (lambda out: (out / "sbldm-000002/sbldm-000002_seg.nii.gz").unlink(), "sbldm-000002_seg.nii.gz: missing"),
        (lambda out: (out / "sbldm-000000/sbldm-000000_t1.nii.gz").write_bytes(b""), "has 0 bytes"),
        (lambda out: (out / "x.tmp").write_bytes(b""), "x.tmp: left by"),
        (lambda out: change_attempt(out / "manifest.csv"), "attempt of sample 1"),
        (
            lambda out: (out / "manifest.csv").write_text("".join((out / "manifest.csv").open().readlines()[:-1])),
            "sample 2 is missing",
        ),
    ],
)
def test_what_is_not_as_recorded_is_named(out: Path, capsys, damage, named: str) -> None:
    damage(out)
    assert main(["verify", str(out)]) == 3
    assert named in capsys.readouterr().err


def test_an_unfinished_run(out: Path, capsys) -> None:
    (out / "manifest.csv").unlink()
    assert main(["verify", str(out)]) == 5
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"schema_version": 1}'])
def test_no_run(tmp_path: Path, capsys, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert main(["verify", str(tmp_path)]) == 3
    assert "run.json" in capsys.readouterr().err
