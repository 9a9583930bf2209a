"""`generate --masks`: images around label files that are given."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.report.command import recipe
from sbldm.engine.run.description import read_description

from tests.support.commands import child, command

GRID, SPACING = (32, 32, 16), (6.0, 6.0, 9.6)


def tumour() -> NDArray[np.uint8]:
    """A mask (x, y, z) on the tiny grid, in BraTS values, unlike its mirror images."""
    label = np.zeros(GRID, np.uint8)
    label[8:13, 14:20, 5:9] = 2
    label[9:12, 15:18, 6:8] = 4
    label[10, 15, 6] = 1
    return label


def write(folder: Path, name: str, array: NDArray[np.uint8], axes: NDArray[np.float64]) -> None:
    case = folder / name
    case.mkdir(parents=True)
    nib.Nifti1Image(array, axes).to_filename(case / f"{name}_seg.nii.gz")


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Two masks: one on the model's grid with its axes to the left and back, one of half the voxel size."""
    folder = tmp_path / "masks"
    write(folder, "BraTS2021_00001", tumour()[::-1, ::-1], np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0]))
    fine = tumour().repeat(2, 0).repeat(2, 1).repeat(2, 2)
    write(folder, "BraTS2021_00002", fine, np.diag([*(s / 2 for s in SPACING), 1.0]))
    return folder


def generate(bundle: Bundle, masks: Path, out: Path, *arguments: object) -> int:
    fixed = ["generate", "--bundle", bundle.path, "--masks", masks, "--steps", 2, "--threads", 1, "--out", out]
    return main([str(a) for a in (*fixed, *arguments)])


def hashes(directory: Path) -> dict[str, str]:
    return {
        p.relative_to(directory).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in directory.rglob("*.nii.gz")
    }


def test_masks_come_back_with_images_around_them(
    tiny_mask_first_bundle: Bundle, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert generate(tiny_mask_first_bundle, masks, out, "--count", 3) == 0
    said = capsys.readouterr().err
    assert "BraTS2021_00002: its mask is brought to the model's grid" in said
    assert "Dice WT 1.000, TC 1.000, ET 1.000" in said
    assert "BraTS2021_00001: its mask is brought" not in said
    rows = list(csv.DictReader((out / "manifest.csv").open()))
    assert [row["id"] for row in rows] == ["BraTS2021_00001", "BraTS2021_00002", "BraTS2021_00001-2"]
    for row in rows:
        written = nib.load(out / row["files"].split(";")[-1])
        assert np.array_equal(np.asarray(written.dataobj), tumour())
        assert b"given mask" in bytes(written.header["descrip"])
        assert row["drawn"] == ""
        assert row["requested_volume_ml"] == row["measured_volume_ml"]
        assert row["requested_surface_cm2"] == row["measured_surface_cm2"]
    made = hashes(out)
    first, again = (f"sbldm-{k:06d}/sbldm-{k:06d}_t1.nii.gz" for k in (0, 2))
    assert made[first] != made[again]  # other noise around the same mask
    recorded = json.loads((out / "run.json").read_text())
    assert recorded["source"]["masks"] == 2
    assert "given masks" in recorded["notice"]
    assert main(["verify", str(out)]) == 0
    words = recipe(read_description(out), tiny_mask_first_bundle).words
    assert words[1:4] == ("generate", "--masks", "MASKS")


def test_workers_and_a_resumed_run_make_the_same_bytes(
    tiny_mask_first_bundle: Bundle, masks: Path, tmp_path: Path
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert generate(tiny_mask_first_bundle, masks, whole) == 0
    assert generate(tiny_mask_first_bundle, masks, parted, "--samples", 1, "--workers", 2) == 0
    assert hashes(parted).items() <= hashes(whole).items()
    assert generate(tiny_mask_first_bundle, masks, parted, "--resume") == 0
    assert hashes(parted) == hashes(whole)


def test_many_masks_go_on_after_a_kill(tiny_mask_first_bundle: Bundle, tmp_path: Path) -> None:
    masks, whole, killed = tmp_path / "masks", tmp_path / "whole", tmp_path / "killed"
    for number in range(8):
        moved = np.roll(tumour(), number % 4, axis=1)
        write(masks, f"P{number:02d}", moved, np.diag([*SPACING, 1.0]))
    asked = ("--masks", masks, "--steps", 1)
    assert main(command(tiny_mask_first_bundle, whole, *asked)) == 0
    with child(command(tiny_mask_first_bundle, killed, *asked)) as process:
        while process.is_alive() and len(hashes(killed)) < 5:
            time.sleep(0.01)
        process.kill()
        process.join()
    assert process.exitcode == -9
    assert 5 <= len(hashes(killed)) < len(hashes(whole))
    assert main(command(tiny_mask_first_bundle, killed, *asked, "--resume")) == 0
    assert hashes(killed) == hashes(whole)


def test_a_run_goes_on_with_its_own_masks_alone(
    tiny_mask_first_bundle: Bundle, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert generate(tiny_mask_first_bundle, masks, out, "--samples", 0) == 0
    shutil.rmtree(masks / "BraTS2021_00002")
    assert generate(tiny_mask_first_bundle, masks, out, "--resume", "--count", 2) == 2
    assert "source: the run has 2 given masks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda label: label * 0, "empty"),
        (lambda label: np.where(label == 1, 3, label), "3"),
        (lambda label: np.roll(label, 8, axis=2), "touches the border"),
        (lambda label: np.where(label > 0, 1, 0), "label 1 alone"),
        (lambda label: np.roll(label, (-7, -13, 5), axis=(0, 1, 2)), "no brain"),
    ],
    ids=["empty", "label", "border", "one-label", "no-brain"],
)
def test_a_mask_that_is_none_is_refused_before_anything_is_made(
    tiny_mask_first_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], change, told: str
) -> None:
    masks, out = tmp_path / "masks", tmp_path / "out"
    write(masks, "BraTS2021_00007", change(tumour()).astype(np.uint8), np.diag([*SPACING, 1.0]))
    assert generate(tiny_mask_first_bundle, masks, out) == 3
    said = capsys.readouterr().err
    assert str(masks) in said
    assert told in said
    assert not out.exists()


def test_a_bundle_that_draws_mask_and_image_together_is_refused(
    tiny_bundle: Bundle, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(tiny_bundle, masks, tmp_path / "out") == 2
    assert "mask-first" in capsys.readouterr().err


def test_conditions_move_and_scale_masks_by_name(
    tiny_mask_first_bundle: Bundle, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "cond.csv", tmp_path / "out"
    table.write_text("id,volume_ml,x\nBraTS2021_00002,60,0.55\n")
    assert generate(tiny_mask_first_bundle, masks, out, "--conditions", table) == 0
    kept, edited = csv.DictReader((out / "manifest.csv").open())
    written = [np.asarray(nib.load(out / row["files"].split(";")[-1]).dataobj) for row in (kept, edited)]
    assert np.array_equal(written[0], tumour())
    volume = float(np.prod(SPACING)) / 1000
    assert np.count_nonzero(written[1]) == round(60 / volume)
    assert float(edited["measured_x"]) == pytest.approx(0.55, abs=0.01)
    assert float(edited["measured_y"]) == pytest.approx(float(kept["measured_y"]), abs=0.01)
    assert float(edited["measured_ncr_share"]) == pytest.approx(float(kept["measured_ncr_share"]), abs=0.01)
    assert generate(tiny_mask_first_bundle, masks, out, "--resume") == 2
    assert "edited by" in capsys.readouterr().err
    words = recipe(read_description(out), tiny_mask_first_bundle).words
    assert words[4:6] == ("--conditions", "CONDITIONS.csv")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("id,volume_ml\nsomebody,20\n", ":2: id: somebody"),
        ("volume_ml,w,h,d\n30,0.2,0.2,0.3\n", ":2: volume_ml: 30: contradicts its row"),
        ("surface_cm2\n90\n", ":2: surface_cm2: 90: a given mask has its own"),
        ("volume_ml\n0.2\n", ":2: volume_ml: 0.2: the mask has"),
        ("volume_ml,x\n20,0.1\n60,0.01\n", ":3: x, y, z"),
    ],
    ids=["nobody", "box", "surface", "too-small", "outside"],
)
def test_rows_that_contradict_their_masks_are_refused(
    tiny_mask_first_bundle: Bundle,
    masks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: str,
    told: str,
) -> None:
    table, out = tmp_path / "cond.csv", tmp_path / "out"
    table.write_text(rows)
    assert generate(tiny_mask_first_bundle, masks, out, "--conditions", table) == 3
    assert f"{table}{told}" in capsys.readouterr().err
    assert not out.exists()
