"""What the figures of an autoencoder mean: on images whose loss is known, on a phantom, on an untrained network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from sbldm.benchmarks import autoencoder_quality as quality
from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.scans.prepare import LEVELS
from sbldm.train.data.cohort import prepare_cohort
from sbldm.train.phantom import HELD_OUT, write_cohort

from tests.support.scans import arrays, write_case
from tests.support.tiny_mask_first import write_tiny_mask_first

SPACING = (1.5, 1.5, 2.4)


def scan_of_noise() -> np.ndarray:
    image = np.zeros((2, 24, 24, 16), np.float32)
    image[:, 3:-3, 3:-3, 2:-2] = np.random.default_rng(0).uniform(0.3, 0.7, (2, 18, 18, 12))
    return image


def test_the_slope_is_the_share_of_fine_structure_that_is_left_whatever_noise_is_added() -> None:
    image, where = scan_of_noise(), np.ones((24, 24, 16), bool)
    halved = image - 0.5 * quality.fine(image, SPACING)
    noise = 0.05 * np.random.default_rng(1).standard_normal(image.shape).astype(np.float32)
    inner = where.copy()
    inner[:6] = inner[-6:] = inner[:, :6] = inner[:, -6:] = inner[:, :, :5] = inner[:, :, -5:] = False
    assert quality.slopes(image, image, where, SPACING) == pytest.approx([1, 1])
    assert quality.slopes(image + noise, image, inner, SPACING) == pytest.approx([1, 1], abs=0.05)
    # what is finer than the cut-off has a little that is coarser in it
    assert quality.slopes(halved, image, inner, SPACING) == pytest.approx([0.5, 0.5], abs=0.1)


def test_errors_are_counted_where_they_are() -> None:
    scan = scan_of_noise()
    brain = scan.any(axis=0)
    made = np.where(brain, scan + 0.1, 0).astype(np.float32)
    figures = quality.case_figures(scan, made, SPACING)
    assert figures["brain_psnr"] == pytest.approx(20.0, abs=1e-3)
    assert figures["whole_psnr"] == pytest.approx(20.0 - 10 * np.log10(brain.mean()), abs=1e-3)
    assert figures["brain_error"] == 0.0
    made[:, 3] = 0
    assert quality.case_figures(scan, made, SPACING)["brain_error"] == pytest.approx(1 / 18)
    assert "slope" not in figures


@pytest.mark.slow
def test_a_phantoms_own_scan_keeps_all_of_what_it_is_without_noise(tmp_path: Path) -> None:
    grid = Grid((64, 64, 32), (3.0, 3.0, 4.8))
    write_cohort(tmp_path / "phantoms", 1, 5, 1, anatomies=HELD_OUT)
    cohort = prepare_cohort(tmp_path / "phantoms", tmp_path / "cache", grid)
    truth = quality.truth_of(cohort, 0, 5)
    scan = cohort.slices(0).transpose(1, 2, 3, 0).astype(np.float32) / LEVELS
    assert 0.01 < truth.border.mean() < 0.3
    assert quality.slopes(scan, truth.image, truth.border, grid.spacing_mm) == pytest.approx([1] * 4, abs=0.06)
    assert np.abs(scan - truth.image)[:, truth.border].mean() < 0.03
    assert not np.array_equal(scan, truth.image)


def test_a_training_directory_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_mask_first(tmp_path / "training")
    for name in "AB":
        write_case(tmp_path / "data", name, arrays())
    assert quality.main([str(tmp_path / "training"), "--data", str(tmp_path / "data"), "--cases", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert found.keys() == {"scans"}
    assert found["scans"]["cases"] == 1
    assert len(found["scans"]["kept"]) == 4
    assert lines[0].startswith("scans A: brain_psnr ")
    assert quality.main([str(tmp_path / "nothing"), "--data", str(tmp_path / "data")]) == 3
    assert "training directory" in capsys.readouterr().err
