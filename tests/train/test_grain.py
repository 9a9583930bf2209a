"""How strong the fine noise of a cohort's scans is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.sampling.grain import grain_numbers, with_grain
from sbldm.train import grain
from sbldm.train.data.cohort import Cohort, prepare_cohort
from sbldm.train.grain import load_grain, measured_grain, save_grain

from tests.support.scans import arrays, write_case

SHAPE = (48, 48, 32)
DEVIATIONS = (0.01, 0.04, 0.03, 0.02)


@pytest.fixture(name="cohort")
def _cohort(tmp_path: Path) -> Cohort:
    for name in "AB":
        write_case(tmp_path / "data", name, arrays(tumour=(32.0, 20.0, 10.0)))
    return prepare_cohort(tmp_path / "data", tmp_path / "cache", Grid((32, 32, 16), (6.0, 6.0, 9.6)))


def show(monkeypatch: pytest.MonkeyPatch, images: list[NDArray[np.float32]], white: NDArray[np.float32]) -> list[int]:
    """Cases of these images, all of these shares of white matter and with a bright tumour; those that are looked at."""
    seen: list[int] = []
    label = np.zeros(SHAPE, np.uint8)
    label[:8] = 2

    def image(_: Cohort, case: int) -> NDArray[np.float32]:
        seen.append(case)
        return images[case]

    monkeypatch.setattr(grain, "case_image", image)
    monkeypatch.setattr(grain, "case_label", lambda *_: label)
    monkeypatch.setattr(grain, "case_shares", lambda *_: np.stack([white, 1 - white, np.zeros_like(white)]))
    return seen


def test_the_noise_of_flat_white_matter_is_found_among_all_that_varies_more(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    normals = np.random.default_rng(0).standard_normal(grain_numbers((4, *SHAPE)), np.float32)
    normals[0] = 0
    white = np.ones(SHAPE, np.float32)
    white[:, 32:] = 0
    scan = with_grain(np.full((4, *SHAPE), 0.5, np.float32), [(d, d) for d in DEVIATIONS], normals)
    scan[:, :, 32:] += np.random.default_rng(1).normal(0, 0.3, (4, 48, 16, 32))  # cortex
    scan[:, :8] += np.random.default_rng(2).normal(0, 0.3, (4, 8, 48, 32))  # the tumour
    scan[:, 20:40:8, 4:28:8, ::4] += 0.4  # vessels
    show(monkeypatch, [scan, scan], white)
    found = np.array(measured_grain(cohort))
    np.testing.assert_allclose(found, np.stack([DEVIATIONS] * 2, axis=1), rtol=0.12)


def test_scans_are_measured_and_phantoms_beside_them_are_not(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    blank = np.zeros((4, *SHAPE), np.float32)
    seen = show(monkeypatch, [blank, blank], np.ones(SHAPE, np.float32))
    monkeypatch.setattr(grain, "real_cases", lambda _: np.array([False, True]))
    measured_grain(cohort)
    assert seen == [1]


def test_without_flat_white_matter_there_is_no_grain(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = np.random.default_rng(0).random((4, *SHAPE), np.float32)
    show(monkeypatch, [noisy, noisy], np.zeros(SHAPE, np.float32))
    assert measured_grain(cohort) == ((0.0, 0.0),) * 4


def test_grain_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"grain\.json: missing; train the stage denoiser"):
        load_grain(tmp_path)
    save_grain(tmp_path, ((0.5, 0.25), (0.125, 1.0)))
    assert load_grain(tmp_path) == ((0.5, 0.25), (0.125, 1.0))
