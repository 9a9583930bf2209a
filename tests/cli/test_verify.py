from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.folder import Folder
from sbldm.engine.output.nifti import nifti_bytes
from sbldm.engine.run.description import read_description
from sbldm.engine.run.ledger import FileEntry, LedgerIndex
from sbldm.engine.run.manifest import write_manifest

from tests.support.schemas import held_to


@pytest.fixture
def out(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A complete run of three samples."""
    arguments = ["generate", "--bundle", str(tiny_bundle.path), "--steps", "2", "--threads", "1", "--quiet"]
    assert main([*arguments, "--count", "3", "--out", str(tmp_path / "out")]) == 0
    return tmp_path / "out"


def test_an_intact_run(out: Path, capsys) -> None:
    capsys.readouterr()
    assert main(["verify", str(out), "--json"]) == 0
    result = held_to("verify", capsys.readouterr().out)
    assert (result["samples"], result["files"], result["faults"], result["absent"]) == (3, 15, [], 0)


def damage_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap_mask(out: Path) -> None:
    """A forger's work: another mask, and ledger and manifest that tell its sha256, with a checksum that fits."""
    run = read_description(out)
    seg = "sbldm-000001/sbldm-000001_seg.nii.gz"
    label = np.zeros(run.bundle.grid.shape, np.uint8)
    label[3:6, 3:6, 3:6] = 4
    data = nifti_bytes(label, run.bundle.grid.affine, "")
    (out / seg).write_bytes(data)
    records = []
    for record in LedgerIndex.of(out).records():
        entry = FileEntry(seg, hashlib.sha256(data).hexdigest(), len(data))
        records.append(replace(record, files=(*record.files[:-1], entry)) if record.sample == 1 else record)
    (out / "ledger.jsonl").write_bytes(b"".join(record.to_line(run.id) for record in records))
    with Folder(out) as folder:
        write_manifest(folder, run, LedgerIndex.of(out))


def flip_in_ledger(ledger: Path) -> None:
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([lines[0], lines[1].replace(b'"volume_ml":', b'"volume_ml":1', 1), *lines[2:]]))


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
        (lambda out: (out / "manifest.csv.7.tmp").write_bytes(b""), "manifest.csv.7.tmp: left by"),
        (lambda out: (out / "x.tmp").write_bytes(b""), "x.tmp: foreign"),
        (
            lambda out: shutil.copytree(out / "sbldm-000000", out / "sbldm-000009"),
            "sbldm-000009/sbldm-000000_t1.nii.gz: foreign",
        ),
        (lambda out: swap_mask(out), "volume_ml measures"),
        (lambda out: flip_in_ledger(out / "ledger.jsonl"), "ledger.jsonl:2: its checksum does not fit"),
        (lambda out: (out / "manifest.csv").write_text("a,b\n1,2\n"), "columns are not those"),
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
