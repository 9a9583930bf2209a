"""Varied copies of real scans, how often cases are drawn, and the faint shell of resampled brains."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.conditions.columns import COLUMNS
from sbldm.engine.output.measure import measure_tumour
from sbldm.train.config import AugmentationConfig
from sbldm.train.data.cohort import CachedCase, Cohort, prepare_cohort
from sbldm.train.data.copies import add_copies
from sbldm.train.data.draws import chances
from sbldm.train.data.shell import without_faint_shell
from sbldm.train.guards import cohort_digest

from tests.support.scans import arrays, write_case

GRID = Grid((32, 32, 16), (6.0, 6.0, 9.6))
TWICE = AugmentationConfig(copies=2, carve=0.0, rescan=0.5)


@pytest.fixture(name="cohort")
def _cohort(tmp_path: Path) -> Cohort:
    for name, tumour in (("A", (32.0, 20.0, 10.0)), ("B", (-30.0, -20.0, 0.0)), ("C", (0.0, 30.0, 10.0))):
        write_case(tmp_path / "data", name, arrays(tumour=tumour))
    return prepare_cohort(tmp_path / "data", tmp_path / "cache", GRID)


def contents(cohort: Cohort) -> dict[str, bytes]:
    return {entry.name: entry.path.read_bytes() for entry in cohort.entries}


def test_copies_follow_their_cases_and_are_described_by_what_they_show(cohort: Cohort, tmp_path: Path) -> None:
    both = add_copies(cohort, tmp_path / "cache", TWICE, 0)
    assert both.cases == ("A", "B", "C", "A+1", "A+2", "B+1", "B+2", "C+1", "C+2")
    assert both.originals.entries == cohort.entries
    assert set(both.sources) == {"real"}
    for case in both.cases[3:]:
        label, image = both.label(case), both.slices(case)
        assert not np.array_equal(label, both.label(case[0]))
        brain = image.any(axis=1)
        assert all(np.array_equal(modality > 0, brain) for modality in np.moveaxis(image, 1, 0))
        told = measure_tumour(np.ascontiguousarray(label.transpose(1, 2, 0)), GRID.spacing_mm).vector(COLUMNS)
        assert np.allclose(both.conditions[both.cases.index(case)], told)
    assert cohort_digest(both) != cohort_digest(cohort)


def test_copies_are_a_function_of_the_seed_and_made_once(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = add_copies(cohort, tmp_path / "cache", TWICE, 0)
    (tmp_path / "elsewhere").mkdir()
    assert contents(add_copies(cohort, tmp_path / "elsewhere", TWICE, 0)) == contents(first)
    other = add_copies(cohort, tmp_path / "cache", TWICE, 1)
    assert contents(other)["A+1"] != contents(first)["A+1"]
    monkeypatch.setattr("sbldm.train.data.copies.augment", lambda *_: pytest.fail("made again"))
    assert add_copies(cohort, tmp_path / "cache", TWICE, 0) == first


def test_copies_can_be_made_by_other_processes(cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def elsewhere(
        work: Callable[[tuple[int, int]], CachedCase], items: Sequence[tuple[int, int]], workers: int
    ) -> Iterator[CachedCase]:
        asked.append(workers)
        return map(pickle.loads(pickle.dumps(work)), items)

    once = AugmentationConfig(copies=1, carve=1.0, rescan=1.0)
    alone = contents(add_copies(cohort, tmp_path / "cache", once, 0))
    monkeypatch.setattr("sbldm.train.data.copies.in_processes", elsewhere)
    (tmp_path / "elsewhere").mkdir()
    assert contents(add_copies(cohort, tmp_path / "elsewhere", once, 0, workers=3)) == alone
    assert asked == [3]


def test_phantoms_and_held_out_cases_give_nothing(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    def recorded(case: tuple[np.ndarray, np.ndarray], others: list, *_: object) -> tuple[np.ndarray, np.ndarray]:
        seen.extend(image.tobytes() for image, _ in (case, *others))
        return case

    monkeypatch.setattr("sbldm.train.data.copies.augment", recorded)
    entries = (cohort.entries[0], replace(cohort.entries[1], source="phantom"))
    training = replace(cohort, entries=entries)  # C is held out
    both = add_copies(training, tmp_path / "cache", AugmentationConfig(3, 1.0, 1.0), 0)
    assert both.cases == ("A", "B", "A+1", "A+2", "A+3")
    assert set(seen) == {np.ascontiguousarray(cohort.slices("A").transpose(1, 2, 3, 0)).tobytes()}


def test_a_copy_of_a_case_with_unknown_shares_has_unknown_shares(cohort: Cohort, tmp_path: Path) -> None:
    row = tuple(np.nan if name.endswith("_share") else v for name, v in zip(COLUMNS, cohort.conditions[0], strict=True))
    unknown = replace(cohort, entries=(replace(cohort.entries[0], conditions=row),))
    copied = add_copies(unknown, tmp_path / "cache", AugmentationConfig(1, 0.0, 0.0), 0)
    assert np.array_equal(np.isnan(copied.conditions[1]), np.isnan(np.array(row)))


def test_a_case_counts_twice_a_copy_and_sources_share_the_draws(cohort: Cohort) -> None:
    case, phantom = cohort.entries[0], replace(cohort.entries[1], source="phantom")
    copies = [replace(case, copy=number) for number in (1, 2)]
    assert chances(replace(cohort, entries=(case, *copies))) == pytest.approx([1 / 2, 1 / 4, 1 / 4])
    assert chances(replace(cohort, entries=(case, *copies, phantom))) == pytest.approx([1 / 4, 1 / 8, 1 / 8, 1 / 2])
    assert chances(cohort) == pytest.approx([1 / 3] * 3)


def test_the_faint_shell_goes_and_nothing_else() -> None:
    image = np.zeros((2, 9, 9, 9), np.uint8)
    image[:, 1:8, 1:8, 1:8] = 5  # a rim of nearly nothing
    image[:, 2:7, 2:7, 2:7] = 200
    image[:, 4, 4, 4] = 5  # dark, but inside
    image[1, 1, 4, 4] = 90  # of the rim, bright in one modality
    label = np.zeros((9, 9, 9), np.uint8)
    label[7, 4, 4] = 2
    kept = without_faint_shell(image, label)
    wanted = np.zeros((9, 9, 9), bool)
    wanted[2:7, 2:7, 2:7] = True
    wanted[1, 4, 4] = wanted[7, 4, 4] = True
    assert np.array_equal(kept.any(axis=0), wanted)
    assert np.array_equal(kept[:, wanted], image[:, wanted])


def test_cases_are_prepared_without_their_faint_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = arrays()
    outer = np.ones(case["t1"].shape, bool)
    outer[10:-10, 8:-8, 6:-6] = False
    images = {name: np.where(outer & (array > 0), 3, array).astype(array.dtype) for name, array in case.items()}
    write_case(tmp_path / "data", "A", {**images, "seg": case["seg"]})
    made = prepare_cohort(tmp_path / "data", tmp_path / "cache", GRID)
    monkeypatch.setattr("sbldm.train.data.cohort.without_faint_shell", lambda image, _label: image)
    whole = prepare_cohort(tmp_path / "data", tmp_path / "other", GRID)
    image, label = whole.slices(0).transpose(1, 2, 3, 0), whole.label(0).transpose(1, 2, 0)
    cleaned = without_faint_shell(image, label)
    assert np.count_nonzero(cleaned) < np.count_nonzero(image)
    assert np.array_equal(made.slices(0).transpose(1, 2, 3, 0), cleaned)
