"""The two commands that compare a cohort with real cases."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("torch")

from sbldm.benchmarks import phantom_masks, segmenter_worth
from sbldm.engine.conditions.columns import COLUMNS
from sbldm.engine.errors import InvalidInputError
from sbldm.train.evaluation.segmenter import SegmenterSettings


def test_equal_samples_have_no_distance_and_shifted_ones_do() -> None:
    rng = np.random.default_rng(0)
    sample = rng.normal(0, 1, (300, len(COLUMNS)))
    same = phantom_masks.two_samples(sample, sample)
    far = phantom_masks.two_samples(sample, sample + 1)
    assert list(same) == list(COLUMNS)
    assert all(row[2] == 0 and row[3] == 1 and row[4] == 0 for row in same.values())
    assert all(row[2] > 0.3 and row[3] < 1e-6 and row[4] > 0.5 for row in far.values())
    assert far["volume_ml"][1] - far["volume_ml"][0] == pytest.approx(1)


def test_masks_of_another_grid_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "masks.npz", label=np.zeros((2, 8, 8, 8), np.uint8))
    with pytest.raises(InvalidInputError, match="holds no array `label`"):
        phantom_masks.measure_masks(tmp_path / "masks.npz")


def test_masks_are_measured_with_enhancing_tumour_as_four(tmp_path: Path) -> None:
    label = np.zeros((1, 128, 128, 64), np.uint8)
    label[0, 40:60, 40:60, 20:30] = 2
    label[0, 45:50, 45:50, 22:26] = 4
    np.savez(tmp_path / "masks.npz", label=label)
    row = dict(zip(COLUMNS, phantom_masks.measure_masks(tmp_path / "masks.npz")[0], strict=True))
    assert row["volume_ml"] == pytest.approx(4000 * 5.4 / 1000)
    assert row["et_share"] == pytest.approx(100 / 4000)
    assert row["ncr_share"] == 0


def test_a_segmenter_is_trained_and_tested_on_two_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y, z = np.meshgrid(np.arange(48), np.arange(48), np.arange(40), indexing="ij")
    far = np.sqrt((x - 24) ** 2 + (y - 24) ** 2 + (z - 20) ** 2)
    label = np.select([far < 4, far < 6, far < 9], [1, 4, 2], 0).astype(np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number, part in enumerate(("t1", "t1ce", "t2", "flair", "seg"), start=2):
            data = (
                label if part == "seg" else np.where(far < 18, 100 + 30 * label + 10 * (x % number), 0).astype(np.int16)
            )
            nib.nifti1.save(
                nib.nifti1.Nifti1Image(data, np.diag([4.0, 4.0, 4.0, 1.0])), tmp_path / name / f"{name}_{part}.nii.gz"
            )
    quick = SegmenterSettings(steps=2, batch_size=1, widths=(4, 8))
    monkeypatch.setattr(segmenter_worth, "SegmenterSettings", lambda steps, seed: quick)
    monkeypatch.setattr(segmenter_worth.SegmenterSettings, "steps", 2, raising=False)
    monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "a"), "--test", str(tmp_path / "b"), "--steps", "2"])
    segmenter_worth.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("b wt ")
    assert set(json.loads(lines[-1])["dice"]) == {"wt", "tc", "et"}
