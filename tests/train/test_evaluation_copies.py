"""The audit for copies of training cases, and the agreement of image and mask, on small cohorts of noise brains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sbldm.engine.bundle.manifest import MODALITIES, Grid
from sbldm.engine.conditions.columns import COLUMNS
from sbldm.engine.copies import MIN_HONEST
from sbldm.train.data.cohort import CachedCase, Cohort
from sbldm.train.evaluation.agreement import agreement, fits, look, trained_judge
from sbldm.train.evaluation.memorisation import memorisation
from sbldm.train.evaluation.plants import KINDS, Planter
from sbldm.train.evaluation.segmenter import SegmenterSettings, UNet, segment

from tests.support.brains import SHAPE, SPACING_MM, brain

GRID = Grid(SHAPE, SPACING_MM)


def cohort_of(folder: Path, volumes: Sequence[tuple[np.ndarray, np.ndarray]], name: str) -> Cohort:
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, (image, label) in enumerate(volumes):
        path = folder / f"{name}{number:02d}.npy"
        np.save(path, np.concatenate([image, label[None]]).transpose(3, 0, 1, 2))
        entries.append(CachedCase(path.stem, path, (1.0,) * 4, (1.0,) * len(COLUMNS)))
    return Cohort(GRID, MODALITIES, tuple(entries))


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return cohort_of(tmp_path_factory.mktemp("train"), [brain(seed) for seed in range(8)], "T")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return cohort_of(tmp_path_factory.mktemp("real"), [brain(100 + seed) for seed in range(16)], "R")


def test_copies_are_listed_and_new_brains_are_not(training: Cohort, held_out: Cohort, tmp_path: Path) -> None:
    copied = np.asarray(training.slices("T03")).transpose(1, 2, 3, 0)[:, ::-1] // 2
    made = cohort_of(tmp_path, [brain(200), (copied, brain(3)[1][::-1]), brain(201)], "S")
    found = memorisation(held_out, made, training)
    (listed,) = found["memorised"]
    assert (listed["sample"], listed["nearest"]) == ("S01", "T03")
    assert listed["closeness"] > 1 > listed["second"]
    assert found["reason"] is None
    assert list(found["planted"]) == list(KINDS)
    assert all(share["value"] >= 0.95 and share["n"] == 8 for share in found["planted"].values())
    assert found["held_out"]["most"] < 1 < found["synthetic"]["most"]
    assert found["membership"]["low"] <= found["membership"]["value"] <= found["membership"]["high"]


def test_nothing_is_said_where_copies_would_not_be_found(
    training: Cohort, held_out: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "another brain", lambda planter: planter._host)
    found = memorisation(held_out, held_out.subset([0, 1]), training)
    assert found["memorised"] is None
    assert found["reason"] == "planted copies are not found: another brain"
    few = memorisation(held_out.subset(list(range(MIN_HONEST - 1))), held_out, training)
    assert (few["memorised"], few["planted"]) == (None, None)
    assert "are needed" in few["reason"]


def test_members_are_told_from_others_where_samples_are_copies(training: Cohort, held_out: Cohort) -> None:
    assert memorisation(held_out.subset([0]), training, training)["membership"]["value"] == 1


def test_planted_copies_are_what_their_names_say() -> None:
    case, host = brain(0)[0], brain(1)[0]
    planter = Planter(case, host, SPACING_MM, np.random.default_rng(0))
    made = {kind: make(planter) for kind, make in KINDS.items()}
    assert len(made) == 10
    assert all(image.shape == case.shape and image.dtype == np.uint8 for image in made.values())
    assert np.array_equal(made["flipped"][:, ::-1], case)
    assert np.array_equal(made["dimmed to 0.5"], np.rint(case / 2))
    inside = case > 1
    assert (made["inverted"][inside].astype(int) + case[inside] == 256).all()
    assert ((made["noisy"] > 0) == (case > 0)).all()
    assert sum(np.array_equal(a, b) for a, b in zip(made["one modality"], case, strict=True)) == 1
    assert sum(np.array_equal(a, b) for a, b in zip(made["one modality"], host, strict=True)) == 3
    halves = [np.array_equal(made["half a brain"][:, part], case[:, part]) for part in (slice(16), slice(16, 32))]
    assert sorted(halves) == [False, True]
    moved = [
        np.array_equal(np.roll(case, shift, axis), made["shifted 5 voxels"]) for axis in (1, 2) for shift in (-5, 5)
    ]
    assert any(moved) or made["shifted 5 voxels"].sum() < case.sum()  # what leaves the field is lost


def test_swapped_masks_do_not_agree(held_out: Cohort, tmp_path: Path) -> None:
    judge = trained_judge(held_out, 60)
    samples = cohort_of(tmp_path, [brain(300 + seed) for seed in range(6)], "S")
    seen = look(judge, held_out), look(judge, samples)
    found = agreement(judge, *seen)
    assert found["wt"]["real"]["n"] == 16
    assert found["fitted"] == 10
    assert found["wt"]["synthetic"]["value"] > found["wt"]["swapped"]["value"] + 0.1
    assert seen[1].features.shape == (6, 2 * (16 + 32 + 64 + 128))
    assert np.isfinite(seen[1].features).all()


def test_every_case_is_judged_by_a_segmenter_that_was_not_trained_on_it(
    held_out: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[list[bytes]] = []

    def train(volumes: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], settings: SegmenterSettings) -> UNet:
        trained.append([image.tobytes() for image, _ in volumes])
        seeds.append(settings.seed)
        return UNet(12, 4, (16, 32, 64, 128)).eval()

    def found_by(model: UNet, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        judged.append((judge.models.index(model), image.tobytes()))
        return segment(model, image)

    seeds: list[int] = []
    judged: list[tuple[int, bytes]] = []
    monkeypatch.setattr("sbldm.train.evaluation.agreement.train_segmenter", train)
    judge = trained_judge(held_out, 1)
    monkeypatch.setattr("sbldm.train.evaluation.agreement.segment", found_by)
    look(judge, held_out)
    by_the_others = [(model, image) for model, image in judged if model]
    assert len(by_the_others) == 10
    assert {model for model, _ in by_the_others} == {1, 2}
    assert not any(image in trained[model] for model, image in by_the_others)
    first = {image for _, image in judged} - {image for _, image in by_the_others}
    assert len(first) == 6
    assert not first & set(trained[0])
    assert seeds == [0, 1, 2]


def test_cohorts_that_no_segmenter_can_be_trained_on_are_named(held_out: Cohort) -> None:
    assert fits(held_out) is None
    assert "fewer than 3" in str(fits(held_out.subset([0, 1])))
    odd = Cohort(Grid((30, 32, 16), SPACING_MM), MODALITIES, held_out.entries)
    assert "30 x 32" in str(fits(odd))
