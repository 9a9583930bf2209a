"""The segmenter that ships: its file, what it finds in a phantom, what it may be shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sbldm.engine.bundle.manifest import DEFAULT_GRID, MODALITIES, Grid
from sbldm.engine.errors import InvalidInputError
from sbldm.train.evaluation import phantom_segmenter
from sbldm.train.evaluation.phantom_segmenter import FILE, PhantomSegmenter, misfit
from sbldm.train.evaluation.segmenter import REGIONS, dice
from sbldm.train.phantom import HELD_OUT, TRAINING

LARGEST = 1_500_000  # bytes


def test_its_file_is_small_and_tells_what_it_was_made_of() -> None:
    assert FILE.stat().st_size <= LARGEST
    segmenter = PhantomSegmenter()
    assert tuple(segmenter.told["trained_on"]["anatomies"]) == TRAINING
    assert tuple(segmenter.told["tested_on"]["anatomies"]) == HELD_OUT
    assert segmenter.dice.shape == (segmenter.told["tested_on"]["count"], len(REGIONS))
    assert segmenter.dice[:, 0].mean() > 0.7


@pytest.mark.slow
def test_it_finds_the_tumour_of_a_phantom_as_it_says(tmp_path: Path) -> None:
    """A phantom of its own test, made anew, scores what the file says."""
    from sbldm.train.data.cohort import Cohort
    from sbldm.train.data.phantoms import make_phantoms
    from sbldm.train.evaluation.agreement import volume_of

    segmenter = PhantomSegmenter()
    seed = segmenter.told["tested_on"]["seed"]
    made = make_phantoms([0], tmp_path, DEFAULT_GRID, MODALITIES, seed, anatomies=HELD_OUT)
    image, label = volume_of(Cohort(DEFAULT_GRID, MODALITIES, made), 0)
    found = segmenter.segment(image)
    assert list(dice(found, label).values()) == pytest.approx(segmenter.dice[0].tolist(), abs=0.02)
    assert not found[~image.any(axis=0)].any()


@pytest.mark.parametrize(
    ("grid", "modalities", "why"),
    [
        (DEFAULT_GRID, MODALITIES, None),
        (DEFAULT_GRID, ("flair",), "takes t1, t1ce, t2, flair"),
        (DEFAULT_GRID, MODALITIES[::-1], "takes t1, t1ce, t2, flair"),
        (Grid((128, 128, 64), (1.0, 1.0, 1.6)), MODALITIES, "takes 128 x 128 x 64 voxels of 1.5 x 1.5 x 2.4 mm"),
    ],
    ids=["fits", "one modality", "another order", "another grid"],
)
def test_what_it_may_be_shown(
    grid: Grid, modalities: tuple[str, ...], why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phantom_segmenter, "FILE", Path(__file__))
    told = misfit(grid, modalities)
    assert told is None if why is None else why in str(told)


def test_a_missing_or_damaged_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom_segmenter, "FILE", tmp_path / "nowhere.onnx")
    with pytest.raises(InvalidInputError, match="install the package again"):
        PhantomSegmenter()
    assert "is not there" in str(misfit(DEFAULT_GRID, MODALITIES))
    with pytest.raises(InvalidInputError, match="cannot load it"):
        PhantomSegmenter(np.arange(100, dtype=np.uint8).tobytes())
