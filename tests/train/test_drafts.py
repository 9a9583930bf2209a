"""Drafts of a cohort's cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.errors import InvalidInputError
from sbldm.train.data.cohort import prepare_cohort
from sbldm.train.drafts import Drafts, load_levels, save_levels

from tests.support.scans import arrays, write_case


def test_drafts_lie_where_the_brain_and_the_tumour_lie(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "A", arrays(tumour=(32.0, 20.0, 10.0)))
    cohort = prepare_cohort(tmp_path / "data", tmp_path / "cache", Grid((32, 32, 16), (6.0, 6.0, 9.6)))
    drafts = Drafts(cohort)
    levels = drafts.measured_levels(3)
    draft, image, label = drafts.stored(0, levels), cohort.slices(0), cohort.label(0)
    assert label.any()
    assert draft.shape == image.shape
    assert draft.dtype == np.uint8
    assert np.array_equal(draft.any(axis=1), image.any(axis=1) | (label > 0))
    for tissue in (1, 2, 3):
        if (label == tissue).any():
            expected = np.rint(np.array(levels[2 + tissue]) * 255)
            assert np.all(draft.transpose(0, 2, 3, 1)[label == tissue] == expected)


def test_tissues_that_levels_were_measured_on_are_not_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "AB":
        write_case(tmp_path / "data", name, arrays(tumour=(32.0, 20.0, 10.0)))
    cohort = prepare_cohort(tmp_path / "data", tmp_path / "cache", Grid((32, 32, 16), (6.0, 6.0, 9.6)))
    drafts = Drafts(cohort)
    levels = drafts.measured_levels(3)
    anew = [Drafts(cohort).stored(case, levels) for case in range(2)]
    monkeypatch.setattr("sbldm.train.drafts.tissue_shares", lambda *_: pytest.fail("found again"))
    assert all(np.array_equal(drafts.stored(case, levels), draft) for case, draft in enumerate(anew))


def test_levels_come_back_as_they_were_kept(tmp_path: Path) -> None:
    levels = ((0.5, 0.25), (0.125, 1.0))
    with pytest.raises(InvalidInputError, match=r"draft_levels\.json: missing; train the stage denoiser"):
        load_levels(tmp_path)
    save_levels(tmp_path, levels)
    assert load_levels(tmp_path) == levels
