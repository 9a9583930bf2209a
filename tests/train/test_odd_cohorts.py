"""Cohorts that lack what a system is to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sbldm.engine.conditions.columns import COLUMNS
from sbldm.engine.errors import InvalidInputError
from sbldm.train.data.cohort import CachedCase, Cohort
from sbldm.train.objectives.slice_autoencoder import SliceSampler
from sbldm.train.run import FEW_CASES, cohort_warnings

from tests.support.tiny import tiny_system_config

CONFIG = tiny_system_config()
DEPTH, MODALITIES = CONFIG.grid.shape[2], CONFIG.modalities


def cohort_of(shares: list[tuple[float, float, float]]) -> Cohort:
    """Cases with these shares of necrosis, oedema and enhancing tumour; nothing on the disk."""
    entries = [
        CachedCase(f"C{k}", Path(f"C{k}.npy"), (1.0,) * 4, (*[0.5] * (len(COLUMNS) - 3), *row))
        for k, row in enumerate(shares)
    ]
    return Cohort(CONFIG.grid, MODALITIES, tuple(entries))


def test_a_sound_cohort_is_not_spoken_of() -> None:
    assert list(cohort_warnings(cohort_of([(0.2, 0.5, 0.3)] * FEW_CASES), CONFIG)) == []


def test_a_tissue_that_no_case_has_is_told() -> None:
    (told,) = cohort_warnings(cohort_of([(0.4, 0.6, 0.0)] * FEW_CASES), CONFIG)
    assert told == "no case has tissue et: the model will not know it"


def test_masks_of_one_tissue_cannot_teach_several() -> None:
    with pytest.raises(InvalidInputError, match=r"holds one tissue only.*ncr, ed, et"):
        list(cohort_warnings(cohort_of([(1.0, 0.0, 0.0)] * FEW_CASES), CONFIG))


def test_few_cases_are_told() -> None:
    (told,) = cohort_warnings(cohort_of([(0.2, 0.5, 0.3)]), CONFIG)
    assert told.startswith(f"only 1 case to train on: below {FEW_CASES}")


@pytest.mark.parametrize("slices_with_tumour", [DEPTH, 0, 1])
def test_slices_are_drawn_whatever_the_tumour_fills(tmp_path: Path, slices_with_tumour: int) -> None:
    """Crops around tumours have one in every slice: there is no other slice to draw."""
    x, y, z = CONFIG.grid.shape
    stored = np.full((z, len(MODALITIES) + 1, x, y), 100, np.uint8)
    stored[:, -1] = 0
    stored[:slices_with_tumour, -1, 4:8, 4:8] = 2
    np.save(tmp_path / "C0.npy", stored)
    entry = CachedCase("C0", tmp_path / "C0.npy", (1.0,) * 4, (0.5,) * len(COLUMNS))
    sampler = SliceSampler(Cohort(CONFIG.grid, MODALITIES, (entry,)), CONFIG)
    images, labels, positions = sampler.draw(64, np.random.default_rng(0))
    assert images.shape == (64, len(MODALITIES), x, y)
    with_tumour = labels.flatten(1).any(dim=1)
    assert bool(with_tumour.all()) is (slices_with_tumour == DEPTH)
    assert bool(with_tumour.any()) is (slices_with_tumour > 0)
    assert set(positions[with_tumour].tolist()) <= set(range(slices_with_tumour))
