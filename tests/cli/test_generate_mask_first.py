"""`generate` on a bundle that makes the mask first: every path gives the same bytes, and masks as they were asked."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle

CSV = "id,volume_ml,x,ncr_share,ed_share,et_share\na,21.3,0.45,0.25,0.45,0.3\nb,30,0.4,0,1,0\nc,12,0.6,0.5,0.1,0.4\n"
VOXEL_ML = 6.0 * 6.0 * 9.6 / 1000


def generate(bundle: Bundle, out: Path, *arguments: object, batch: int = 2) -> int:
    table = out.parent / "cond.csv"
    table.write_text(CSV)
    fixed = ["generate", "--bundle", bundle.path, "--conditions", table, "--steps", 2, "--threads", 1, "--quiet"]
    return main([str(a) for a in (*fixed, "--batch-size", batch, "--out", out, *arguments)])


def hashes(directory: Path, pattern: str = "*.nii.gz") -> dict[str, str]:
    return {
        p.relative_to(directory).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in directory.rglob(pattern)
    }


@pytest.fixture(scope="module")
def made(tiny_mask_first_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three samples in batches of two. Do not write to it."""
    out = tmp_path_factory.mktemp("mask-first") / "run"
    assert generate(tiny_mask_first_bundle, out, "--preview") == 0
    return out


def test_volume_and_shares_are_those_asked_for_to_the_voxel(made: Path) -> None:
    rows = list(csv.DictReader((made / "manifest.csv").open()))
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    for row in rows:
        seg = np.asarray(nib.load(made / row["files"].split(";")[-1]).dataobj)
        whole = round(float(row["requested_volume_ml"]) / VOXEL_ML)
        ncr, et = (round(float(row[f"requested_{name}_share"]) * whole) for name in ("ncr", "et"))
        assert [int((seg == value).sum()) for value in (1, 2, 4)] == [ncr, whole - ncr - et, et]
        assert float(row["measured_volume_ml"]) == pytest.approx(whole * VOXEL_ML, rel=1e-5)
    assert (made / "preview.png").stat().st_size > 0


def test_outside_of_the_brain_all_modalities_are_zero(made: Path) -> None:
    for folder in sorted(p for p in made.iterdir() if p.is_dir()):
        images = [np.asarray(nib.load(folder / f"{folder.name}_{m}.nii.gz").dataobj) for m in ("t1", "t1ce", "t2")]
        for other in images[1:]:
            assert np.array_equal(images[0] > 0, other > 0)
        assert min(image[image > 0].min() for image in images) >= 4


def test_one_sample_alone_two_workers_and_a_resumed_run_give_the_same_bytes(
    tiny_mask_first_bundle: Bundle, made: Path, tmp_path: Path
) -> None:
    whole = hashes(made)
    assert generate(tiny_mask_first_bundle, tmp_path / "alone", "--samples", 1) == 0
    alone = hashes(tmp_path / "alone")
    assert len(alone) == 5
    assert alone.items() <= whole.items()
    assert generate(tiny_mask_first_bundle, tmp_path / "workers", "--workers", 2) == 0
    assert hashes(tmp_path / "workers") == whole
    resumed = tmp_path / "resumed"
    shutil.copytree(made, resumed)
    (resumed / "manifest.csv").unlink()
    ledger = (resumed / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (resumed / "ledger.jsonl").write_bytes(ledger[0])
    shutil.rmtree(resumed / "sbldm-000002")
    assert generate(tiny_mask_first_bundle, resumed, "--resume") == 0
    assert hashes(resumed) == whole
    assert (resumed / "manifest.csv").read_bytes() == (made / "manifest.csv").read_bytes()


def test_verify_measures_the_masks_again(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(made)]) == 0
    capsys.readouterr()


def test_a_batch_of_another_shape_is_another_run(tiny_mask_first_bundle: Bundle, made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    assert generate(tiny_mask_first_bundle, copy, "--resume", batch=1) == 2


def test_openvino_makes_the_same_masks_nearly(tiny_mask_first_bundle: Bundle, made: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    out = tmp_path / "openvino"
    assert generate(tiny_mask_first_bundle, out, "--backend", "openvino", "--precision", "fp32", "--samples", 0) == 0
    name = "sbldm-000000/sbldm-000000"
    mine, theirs = (np.asarray(nib.load(d / f"{name}_seg.nii.gz").dataobj) for d in (out, made))
    assert [int((mine == v).sum()) for v in (1, 2, 4)] == [int((theirs == v).sum()) for v in (1, 2, 4)]


def test_a_refused_draw_is_made_again_from_other_noise(
    tiny_mask_first_bundle: Bundle, made: Path, tmp_path: Path
) -> None:
    """Untrained maps put the tumour anywhere, so that no place is within a hundredth of the one asked for."""
    out = tmp_path / "redrawn"
    assert generate(tiny_mask_first_bundle, out, "--reject", 0.01, "--attempts", 1, "--samples", 0) == 0
    (row,) = csv.DictReader((out / "manifest.csv").open())
    record = json.loads((out / "ledger.jsonl").read_text())
    assert record["within_tolerance"] is False
    assert (row["attempt"] == "0") == (hashes(out).items() <= hashes(made).items())


def test_the_guidance_reaches_the_image_alone(tiny_mask_first_bundle: Bundle, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "guided"
    assert generate(tiny_mask_first_bundle, out, "--guidance", 3, "--samples", 0) == 0
    ours, theirs = hashes(out), hashes(made)
    assert [ours[name] == theirs[name] for name in sorted(ours)] == [False, True, False, False, False]


def test_what_the_bundle_is_made_of_is_told(tiny_mask_first_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_mask_first_bundle.path)]) == 0
    assert "mask_denoiser" in capsys.readouterr().out
