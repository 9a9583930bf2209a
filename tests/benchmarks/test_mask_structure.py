"""Parts of tumours, measured on shapes whose figures are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from sbldm.benchmarks import mask_structure

SHAPE, SPACING = (128, 128, 64), (1.5, 1.5, 2.4)


def shells(*radii_mm: float) -> np.ndarray:
    """Labels of nested balls: 1 within the first radius, 3 within the second, 2 within the third."""
    far = np.sqrt(sum(((np.indices(SHAPE)[k] - SHAPE[k] / 2) * SPACING[k]) ** 2 for k in range(3)))
    return np.select([far < radius for radius in radii_mm], [1, 3, 2], 0).astype(np.uint8)


def test_balls_are_round_and_their_rim_is_as_thick_as_it_is() -> None:
    found = mask_structure.structure(shells(12.0, 18.0, 27.0), SPACING)
    assert min(found["WT"], found["TC"], found["NCR"]) > 0.85
    assert found["ET"] < 0.7
    assert found["thickness"] == pytest.approx(6.0, rel=0.15)
    assert found["piece"] == 1


def test_crumbs_and_frayed_cores_show() -> None:
    label = shells(12.0, 18.0, 27.0)
    crumbs = np.random.default_rng(0).random(SHAPE) < 0.3
    frayed = mask_structure.structure(np.where((label == 3) & crumbs, 1, label).astype(np.uint8), SPACING)
    whole = mask_structure.structure(label, SPACING)
    assert frayed["NCR"] < 0.7 * whole["NCR"]
    assert frayed["thickness"] < 0.5 * whole["thickness"]
    assert frayed["TC"] == whole["TC"]


def test_a_tumour_without_a_rim_has_no_thickness() -> None:
    assert np.isnan(mask_structure.structure(shells(0.0, 0.0, 20.0), SPACING)["thickness"])


def test_enhancing_tumour_may_be_three_or_four(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    label = shells(12.0, 18.0, 27.0)
    np.savez(tmp_path / "three.npz", label=label[None])
    np.savez(tmp_path / "four.npz", label=np.where(label == 3, 4, label).astype(np.uint8)[None])
    monkeypatch.setattr(sys, "argv", ["mask_structure", str(tmp_path / "three.npz"), str(tmp_path / "four.npz")])
    mask_structure.main()
    three, four = (line.split("|")[2:] for line in capsys.readouterr().out.splitlines()[2:])
    assert three == four
    assert three[0].strip() == "1"
