"""`masks vary`."""

from __future__ import annotations

import csv
import stat
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sbldm.cli.main import main

from tests.support.commands import hashes
from tests.support.scans import arrays, write_case, write_nnunet


def vary(folder: Path, out: Path, *arguments: object) -> int:
    return main(["masks", "vary", str(folder), "--out", str(out), *map(str, arguments)])


def test_variants_lie_on_the_voxels_of_their_masks_and_are_read_again(tmp_path: Path) -> None:
    folder, out = tmp_path / "masks", tmp_path / "out"
    write_case(folder, "P1")
    write_case(folder, "P2", {"seg": arrays(tumour=(-30.0, 10.0, 5.0))["seg"]})
    assert vary(folder, out, "--count", 2, "--seed", 3) == 0
    rows = list(csv.DictReader((out / "variants.csv").open()))
    assert [row["id"] for row in rows] == ["P1-v001", "P1-v002", "P2-v001", "P2-v002"]
    for row in rows:
        own = nib.load(folder / row["mask"] / f"{row['mask']}_seg.nii.gz")
        path = out / row["id"] / f"{row['id']}_seg.nii.gz"
        made = nib.load(path)
        assert np.array_equal(made.affine, own.affine)
        assert set(np.unique(made.dataobj)) <= {0, 1, 2, 4}
        assert (row["pieces"], row["inside_brain"]) == ("1", "1")
        assert b"from a given mask" in bytes(made.header["descrip"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert main(["conditions", "measure", str(out)]) == 0
    assert vary(folder / "P2", tmp_path / "alone", "--count", 1, "--seed", 3) == 0
    assert hashes(tmp_path / "alone").items() - hashes(out).items() == {
        item for item in hashes(tmp_path / "alone").items() if item[0] == "variants.csv"
    }  # a mask's variants do not depend on its neighbours or on --count
    assert vary(folder, out, "--count", 1) == 2


def test_label_conventions_are_those_of_the_data_set(tmp_path: Path) -> None:
    write_nnunet(tmp_path / "raw", {"background": 0, "edema": 1, "enhancing": 2, "necrosis": 3}, numbers=(3, 1, 2))
    assert vary(tmp_path / "raw", tmp_path / "out", "--count", 1, "--edits", "mirror") == 0
    given = np.asarray(nib.load(tmp_path / "raw/labelsTr/P_000.nii.gz").dataobj)
    made = np.asarray(nib.load(tmp_path / "out/P_000-v001/P_000-v001_seg.nii.gz").dataobj)
    assert [(made == k).sum() for k in (1, 2, 4)] == [(given == k).sum() for k in (3, 1, 2)]


@pytest.mark.parametrize(
    ("case", "arguments", "code", "told"),
    [
        ({"seg": np.zeros((48, 48, 32), np.uint8)}, (), 3, "P1: P1_seg.nii.gz: empty mask"),
        ({"seg": np.full((48, 48, 32), 9, np.uint8)}, (), 3, "unknown label 9"),
        (arrays(tumour=(0, 0, 0)) | {"seg": np.roll(arrays()["seg"], 20, 0)}, (), 3, "outside the brain of t1"),
        (arrays(), ("--ml", "1500,1500"), 3, "no variant 1"),
        (arrays(), ("--ml", "5"), 2, "--ml 5"),
        (arrays(), ("--edits", "mirror,melt"), 2, "--edits mirror,melt"),
    ],
    ids=["empty", "label", "outside", "no-room", "ml", "edits"],
)
def test_what_cannot_be_varied_is_refused(tmp_path: Path, capsys, case, arguments, code: int, told: str) -> None:
    write_case(tmp_path / "masks", "P1", case)
    assert vary(tmp_path / "masks", tmp_path / "out", "--count", 1, *arguments) == code
    assert told in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*/*"))
