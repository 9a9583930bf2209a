"""Scores, intervals and baselines of the downstream comparison."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from sbldm.engine.bundle.manifest import Grid
from sbldm.train.data.cohort import Cohort, prepare_cohort
from sbldm.train.downstream.arms import CARVED, REAL, SYNTHETIC, WARPED, Training, planned, training_cases
from sbldm.train.downstream.baselines import CARVEMIX, made_cases, read_case
from sbldm.train.downstream.intervals import PairedBootstrap
from sbldm.train.downstream.scores import REGIONS, scores

from tests.support.tiny_cohort import write_small_cohort

GRID = Grid((20, 20, 12), (1.5, 1.5, 2.4))


def block(z: int, value: int = 2) -> np.ndarray:
    label = np.zeros(GRID.shape, np.uint8)
    label[5:12, 5:12, z : z + 4] = value
    return label


def test_equal_masks_are_perfect_and_two_empty_ones_agree() -> None:
    for label in (block(3), np.zeros(GRID.shape, np.uint8)):
        found = scores(label, label, GRID)
        assert set(found["dice"].values()) == {1.0}
        assert set(found["hd95_mm"].values()) == {0.0}


def test_a_shift_is_measured_in_millimetres_and_overlap() -> None:
    found = scores(block(5), block(3), GRID)
    assert found["hd95_mm"]["wt"] == pytest.approx(2 * 2.4)
    assert found["dice"]["wt"] == found["dice"]["ed"] == 0.5
    assert found["dice"]["et"] == 1.0  # neither has any


def test_a_region_that_one_lacks_is_as_far_as_can_be() -> None:
    found = scores(block(3, value=3), block(3), GRID)
    diagonal = math.dist((0, 0, 0), GRID.fov_mm)
    assert found["dice"] == {"wt": 1.0, "tc": 0.0, "et": 0.0, "ncr": 1.0, "ed": 0.0}
    assert found["hd95_mm"] == {"wt": 0.0, "tc": diagonal, "et": diagonal, "ncr": 0.0, "ed": diagonal}
    assert found["dice"].keys() == REGIONS.keys()


def test_differences_are_paired_by_case_and_seed() -> None:
    rng = np.random.default_rng(1)
    hard_and_easy = rng.uniform(0, 0.9, (1, 30)) + rng.normal(0, 0.02, (3, 30))
    better = hard_and_easy + 0.03 + rng.normal(0, 0.01, (3, 30))
    bootstrap = PairedBootstrap.of(3, 30)
    difference = bootstrap.difference(better, hard_and_easy)
    apart, alone = bootstrap.mean(better), bootstrap.mean(hard_and_easy)
    assert 0 < difference.low < difference.value < difference.high < 0.05
    assert apart.low < alone.high  # which unpaired intervals do not tell
    assert apart.low < apart.value < apart.high
    assert bootstrap.difference(better, better) == (0, 0, 0)
    ratio = bootstrap.ratio(better, hard_and_easy)
    assert ratio is not None
    assert 1 < ratio.low < ratio.value == pytest.approx(better.mean() / hard_and_easy.mean())


def test_an_interval_is_that_of_the_mean() -> None:
    """Of one seed the bootstrap's spread is the standard error of the cases."""
    cases = np.random.default_rng(2).normal(0.6, 0.1, (1, 50))
    found = PairedBootstrap.of(1, 50).mean(cases)
    error = cases.std() / 50**0.5
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)


def test_nothing_is_a_share_of_what_may_be_nought() -> None:
    bootstrap = PairedBootstrap.of(1, 2, resamples=50)
    assert bootstrap.ratio(np.array([[0.5, 0.5]]), np.array([[0.0, 0.6]])) is None


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("baselines")
    return prepare_cohort(write_small_cohort(folder / "data", 4), folder / "cache", Grid((24, 24, 16), (8.0, 8.0, 9.6)))


def test_carvemix_brings_the_lesion_of_another_case_and_leaves_the_rest(cohort: Cohort, tmp_path: Path) -> None:
    made = made_cases(CARVEMIX, cohort, 4, 0, tmp_path, 1)
    carved = 0
    for number, entry in enumerate(made.entries):
        image, label = read_case(entry.path)
        receiver, _ = read_case(cohort.entries[number].path)
        donors = [read_case(other.path)[1] for k, other in enumerate(cohort.entries) if k != number]
        lesions = [lesion[::flip] > 0 for lesion in donors for flip in (1, -1)]
        same = [bool(((label > 0) & lesion).sum() >= 0.7 * lesion.sum()) for lesion in lesions]
        carved += any(same)
        assert ((image > 0).any(0) == (receiver > 0).any(0)).all()
        assert entry.name == f"carvemix-000{number}"
    assert carved >= 3
    files = {entry.path: entry.path.stat().st_mtime_ns for entry in made.entries}
    again = made_cases(CARVEMIX, cohort, 4, 0, tmp_path, 1)
    assert {entry.path: entry.path.stat().st_mtime_ns for entry in again.entries} == files
    assert {e.path for e in made_cases(CARVEMIX, cohort, 4, 1, tmp_path, 1).entries}.isdisjoint(files)


def test_arms_of_a_seed_share_their_real_cases_and_subsets_are_nested(cohort: Cohort, tmp_path: Path) -> None:
    def cases(arm: str, count: int, seed: int = 0):
        return training_cases(Training(arm, count, seed), cohort, cohort.subset([0]), tmp_path, 3, 1)

    two, three = ({*cases(REAL, n).cohort.cases} for n in (2, 3))
    assert two < three
    warped = cases(WARPED, 2)
    assert {*warped.cohort.cases[:2]} == two
    assert len(warped.cohort) == 2 + 3
    assert sum(warped.chances[:2]) == pytest.approx(0.5)
    assert sum(warped.chances) == pytest.approx(1)
    assert cases(SYNTHETIC, 0).cohort.cases == cohort.cases[:1]
    assert len({tuple(cases(REAL, 2, seed).cohort.cases) for seed in range(6)}) > 1


def test_a_plan_has_every_arm_of_a_seed_before_the_next() -> None:
    plan = planned([REAL, SYNTHETIC, CARVED], [1, 2], 2)
    names = [training.name for training in plan]
    assert names[:4] == ["real-1-seed0", "real-2-seed0", "synthetic-0-seed0", "real+carvemix-2-seed0"]
    assert len(names) == 8
