"""Phantoms beside a cohort of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("torch")

from sbldm.cli.main import main
from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.train.data.cohort import prepare_cohort
from sbldm.train.data.draws import real_cases
from sbldm.train.data.phantoms import add_phantoms, check_phantoms_fit, make_phantoms
from sbldm.train.phantom import HELD_OUT, Phantom

GRID = Grid((32, 32, 16), (6.0, 6.0, 9.6))
PARTS = ("t1", "t1ce", "t2", "flair")


def _ball(seed: int, step: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A ball of brain with a ball of tumour, voxels of `step` mm."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(mm // step) + 0.5) * step - mm / 2 for mm in (192, 192, 160)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    far = np.sqrt(x**2 + y**2 + z**2)
    image = np.where(far < 70, rng.integers(200, 300, (4, *far.shape)), 0).astype(np.int16)
    label = np.select([far < 20, far < 28, far < 40], [1, 3, 2], 0).astype(np.uint8)
    return image, label


def _cohort(folder: Path, names: tuple[str, ...] = ("mine-1", "mine-2"), descrip: bytes = b"") -> Path:
    for seed, name in enumerate(names):
        image, label = _ball(seed)
        (folder / name).mkdir(parents=True)
        for part, data in [*zip(PARTS, image, strict=True), ("seg", np.where(label == 3, 4, label).astype(np.uint8))]:
            file = nib.nifti1.Nifti1Image(data, np.diag([4.0, 4.0, 4.0, 1.0]))
            file.header["descrip"] = descrip
            nib.nifti1.save(file, folder / name / f"{name}_{part}.nii.gz")
    return folder


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Stand-in phantoms of the balls' kind, quick to make; which were made."""
    calls: list[tuple[int, int]] = []

    def make(seed: int, case: int, anatomies: Sequence[int]) -> Phantom:
        calls.append((seed, case))
        return Phantom(*_ball(100 * anatomies[0] + case, 1), np.eye(4), 1)

    monkeypatch.setattr("sbldm.train.data.phantoms.make_phantom", make)
    return calls


def test_phantoms_of_other_anatomies_are_kept_apart(tmp_path: Path, made: list[tuple[int, int]]) -> None:
    usual = make_phantoms([3], tmp_path, GRID, PARTS, 7)
    others = make_phantoms([3], tmp_path, GRID, PARTS, 7, anatomies=HELD_OUT)
    assert made == [(7, 3), (7, 3)]
    assert not np.array_equal(np.load(usual[0].path), np.load(others[0].path))
    assert make_phantoms([3], tmp_path, GRID, PARTS, 7, anatomies=HELD_OUT) == others
    assert len(made) == 2


def test_phantoms_follow_the_cases_and_tell_their_source(tmp_path: Path, made: list[tuple[int, int]]) -> None:
    mine = prepare_cohort(_cohort(tmp_path / "data"), tmp_path / "cache", GRID)
    both = add_phantoms(mine, tmp_path / "cache", 2, 5)
    assert mine.sources == ("real", "real")
    assert both.cases == ("mine-1", "mine-2", "phantom-00000", "phantom-00001")
    assert both.sources == ("real", "real", "phantom", "phantom")
    assert both.conditions.shape == (4, 12)
    assert both.slices("phantom-00001").shape == mine.slices("mine-1").shape
    assert both.label("phantom-00000").max() == 3
    assert made == [(5, 0), (5, 1)]


def test_phantoms_are_made_once_a_seed(tmp_path: Path, made: list[tuple[int, int]]) -> None:
    mine = prepare_cohort(_cohort(tmp_path / "data"), tmp_path / "cache", GRID)
    first = add_phantoms(mine, tmp_path / "cache", 1, 5)
    again = add_phantoms(mine, tmp_path / "cache", 2, 5)
    other = add_phantoms(mine, tmp_path / "cache", 1, 6)
    assert made == [(5, 0), (5, 1), (6, 0)]
    assert again.entries[:3] == first.entries
    assert other.entries[2].path != first.entries[2].path


@pytest.mark.parametrize(
    ("descrip", "source"),
    [(b"SYNTHETIC sbldm-engine phantom", "phantom"), (b"SYNTHETIC sbldm-engine 0.2.0 seed 1 sample 2", "sample")],
    ids=["phantom", "sample"],
)
def test_the_source_of_a_cohort_is_read_from_its_files(tmp_path: Path, descrip: bytes, source: str) -> None:
    folder = _cohort(tmp_path / "data", descrip=descrip)
    cohort = prepare_cohort(folder, tmp_path / "cache", GRID)
    assert cohort.sources == (source, source)
    assert prepare_cohort(folder, tmp_path / "cache", GRID).sources == (source, source)
    assert not real_cases(cohort).any()


def test_modalities_that_phantoms_lack_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbldm.train.data.phantoms.PHANTOM_MODALITIES", ("t1", "t2"))
    with pytest.raises(InvalidInputError, match="phantoms have no t1ce, flair; they have t1, t2"):
        check_phantoms_fit(_cohort(tmp_path / "data"), PARTS, 3)


def test_one_tumour_label_is_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    data = tmp_path / "nnunet"
    (data / "imagesTr").mkdir(parents=True)
    (data / "labelsTr").mkdir()
    image, label = _ball(0)
    for channel in range(4):
        file = nib.nifti1.Nifti1Image(image[channel], np.eye(4))
        nib.nifti1.save(file, data / "imagesTr" / f"a_{channel:04d}.nii.gz")
    nib.nifti1.save(nib.nifti1.Nifti1Image((label > 0).astype(np.uint8), np.eye(4)), data / "labelsTr" / "a.nii.gz")
    (data / "dataset.json").write_text(
        '{"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}, '
        '"labels": {"background": 0, "tumour": 1}, "numTraining": 1, "file_ending": ".nii.gz"}'
    )
    arguments = ["train", "--data", str(data), "--out", str(tmp_path / "out"), "--add-phantoms", "2"]
    assert main(arguments) == 3
    assert not (tmp_path / "out").exists()
    check_phantoms_fit(data, PARTS, 0)


def test_names_of_phantoms_that_are_taken_are_refused(tmp_path: Path) -> None:
    folder = _cohort(tmp_path / "data", ("phantom-00001", "mine"))
    check_phantoms_fit(folder, PARTS, 1)
    with pytest.raises(InvalidInputError, match="phantom-00001"):
        check_phantoms_fit(folder, PARTS, 2)


def test_a_negative_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--add-phantoms -1"):
        check_phantoms_fit(tmp_path, PARTS, -1)
