from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from sbldm.engine.bundle.manifest import Grid
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.scans.plausible import robust_scale
from sbldm.engine.scans.prepare import LEVELS, to_unit
from sbldm.engine.scans.read import read_contents
from sbldm.train.data.cohort import Cohort, prepare_cohort

GRID = Grid((16, 16, 8), (1.5, 1.5, 2.4))
SHAPE = (28, 26, 22)
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "brats2021"
Change = Callable[[dict[str, np.ndarray]], None]


def scan(seed: int) -> dict[str, np.ndarray]:
    """A ball of brain with a smaller ball of three tissues, int16 as BraTS, RAS."""
    rng = np.random.default_rng(seed)
    centre = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in SHAPE], indexing="ij"))
    radius = np.sqrt((centre**2).sum(0))
    tumour = np.sqrt(((centre - rng.uniform(-2, 2, (3, 1, 1, 1))) ** 2).sum(0))
    label = np.select([tumour < 1.8, tumour < 3, tumour < 5], [1, 4, 2], 0).astype(np.uint8)
    case = {}
    for name in ("t1", "t1ce", "t2", "flair"):
        image = rng.normal(600, 60, SHAPE) + 300 * (label > 0) * rng.random()
        case[name] = np.where(radius < 11, image, 0).clip(0).astype(np.int16)
    return case | {"seg": label}


def write(
    folder: Path,
    name: str,
    case: dict[str, np.ndarray],
    codes: str = "LPS",
    affines: dict[str, np.ndarray] | None = None,
) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    to_codes = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt(("R", "A", "S")), nib.orientations.axcodes2ornt(tuple(codes))
    )
    for part, array in case.items():
        image = nib.Nifti1Image(array, (affines or {}).get(part, np.eye(4))).as_reoriented(to_codes)
        nib.save(image, folder / name / f"{name}_{part}.nii.gz")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(3):
        write(tmp_path / "data", f"C{number}", scan(number))
    return tmp_path / "data"


def prepared(data: Path, **options: object) -> Cohort:
    return prepare_cohort(data, data.parent / "cache", GRID, **options)  # type: ignore[arg-type]


def test_a_cohort_gives_slices_labels_and_conditions(data: Path) -> None:
    cohort = prepared(data)
    assert cohort.cases == ("C0", "C1", "C2")
    assert len(cohort) == 3
    slices, label = cohort.slices("C1"), cohort.label(1)
    assert isinstance(slices, np.memmap)
    assert slices.shape == (8, 4, 16, 16)
    assert label.shape == (8, 16, 16)
    assert slices[3].flags.c_contiguous
    assert set(np.unique(label)) == {0, 1, 2, 3}
    assert cohort.conditions.shape == (3, 12)
    measured_ml = (label > 0).sum() * 1.5 * 1.5 * 2.4 / 1000
    np.testing.assert_allclose(cohort.conditions[1, 0], measured_ml)
    np.testing.assert_allclose(cohort.conditions[:, 9:].sum(1), 1)
    assert cohort.subset(["C2", 0]).cases == ("C2", "C0")
    with pytest.raises(KeyError, match="no case X"):
        cohort.label("X")


@pytest.fixture
def nothing_is_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are trusted though they were written a moment ago."""
    monkeypatch.setattr("sbldm.train.data.known.RECENT_NS", -1)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the cases whose files are read from now on."""
    seen: list[str] = []
    monkeypatch.setattr(
        "sbldm.train.data.cohort.read_contents",
        lambda files, *more: seen.append(files.name) or read_contents(files, *more),
    )
    return seen


def stems(cohort: Cohort) -> list[str]:
    return [entry.path.name for entry in cohort.entries]


def test_unchanged_files_are_not_read_again(data: Path, nothing_is_recent: None, monkeypatch: Any) -> None:
    first, seen = prepared(data), reads(monkeypatch)
    again = prepared(data)
    assert (seen, stems(again)) == ([], stems(first))
    assert np.array_equal(again.conditions, first.conditions)
    assert prepared(data, modalities=("t1",)).cases == first.cases  # other settings: everything is read
    assert len(seen) == 3


def test_files_written_a_moment_ago_are_read_again(data: Path, monkeypatch: Any) -> None:
    prepared(data)
    seen = reads(monkeypatch)
    prepared(data)
    assert len(seen) == 3


def exchanged(case: Path) -> None:
    """T1 and T2 change names; no file is written."""
    t1, t2, aside = case / "C1_t1.nii.gz", case / "C1_t2.nii.gz", case / "aside"
    t1.rename(aside)
    t2.rename(t1)
    aside.rename(t2)


def rewritten(case: Path) -> None:
    """Other voxels in as many bytes, with the old times."""
    path = case / "C1_t1.nii.gz"
    status, content = path.stat(), bytearray(path.read_bytes())
    other = bytearray((case / "C1_t2.nii.gz").read_bytes())
    size = len(content)
    path.write_bytes((other + bytes(size))[:size] if len(other) > size else other + bytes(size - len(other)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [exchanged, rewritten])
def test_changed_files_are_noticed_whatever_their_size_and_time(
    data: Path, nothing_is_recent: None, monkeypatch: Any, change: Callable[[Path], None]
) -> None:
    prepared(data)
    change(data / "C1")
    seen = reads(monkeypatch)
    with suppress(InvalidInputError):  # bytes that are cut off are no scan
        prepared(data)
    assert seen == ["C1"]


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', "{"])
def test_a_damaged_list_of_known_files_costs_a_reading(
    data: Path, nothing_is_recent: None, monkeypatch: Any, content: str
) -> None:
    first = prepared(data)
    (kept,) = (data.parent / "cache").glob("known-*")
    kept.write_text(content)
    seen = reads(monkeypatch)
    assert stems(prepared(data)) == stems(first)
    assert len(seen) == 3


def test_background_is_exactly_minus_one_and_brain_is_not(data: Path) -> None:
    image = to_unit(prepared(data).slices("C0"))
    assert image.dtype == np.float32
    assert image.min() == -1
    assert image.max() <= 1
    brain = image > -1
    assert np.array_equal(brain[:, 0], brain[:, 3])
    assert 0.1 < brain[:, 0].mean() < 0.9
    assert brain[4, 0, 8, 8]
    assert not brain[:, :, 0, 0].any()


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SRA", "PIL"])
def test_orientation_does_not_matter(tmp_path: Path, codes: str) -> None:
    write(tmp_path / "ras", "C", scan(5), codes="RAS")
    write(tmp_path / "other", "C", scan(5), codes=codes)
    straight = prepare_cohort(tmp_path / "ras", tmp_path / "cache", GRID)
    turned = prepare_cohort(tmp_path / "other", tmp_path / "cache2", GRID)
    assert np.abs(straight.slices(0).astype(int) - turned.slices(0)).max() <= 1
    assert np.array_equal(straight.label(0), turned.label(0))


def test_outliers_do_not_change_the_rest(tmp_path: Path) -> None:
    case = scan(7)
    write(tmp_path / "plain", "C", case)
    case["t1"][14, 13, 11] = 32767
    write(tmp_path / "outlier", "C", case)
    plain = to_unit(prepare_cohort(tmp_path / "plain", tmp_path / "a", GRID).slices(0))[:, 0]
    spiked = to_unit(prepare_cohort(tmp_path / "outlier", tmp_path / "b", GRID).slices(0))[:, 0]
    assert np.count_nonzero(np.abs(plain - spiked) > 2.1 / LEVELS) <= 8
    assert np.abs(plain - spiked).max() < 0.5


def test_the_scale_is_robust_even_against_many_outliers() -> None:
    values = np.random.default_rng(0).normal(1000, 100, 100_000)
    clean = robust_scale(values)
    np.testing.assert_allclose(clean, 1.1 * np.percentile(values, 99.5))
    values[:2000] = 32767
    assert robust_scale(values) == pytest.approx(5 * np.median(values))


def test_only_a_changed_case_is_made_again(data: Path) -> None:
    before = prepared(data)
    stamps = {entry.name: entry.path.stat().st_mtime_ns for entry in before.entries}
    changed = scan(1)
    changed["t2"][14, 13, 11] += 5
    write(data, "C1", changed)
    after = prepared(data)
    assert [entry.path.stat().st_mtime_ns == stamps[entry.name] for entry in after.entries if entry.name != "C1"] == [
        True,
        True,
    ]
    assert after.entries[1].path != before.entries[1].path
    assert not before.entries[1].path.exists()
    assert len(list((data.parent / "cache").glob("C*"))) == 6


def test_grids_share_a_cache_and_settings_are_part_of_the_key(data: Path) -> None:
    first = prepared(data)
    second = prepare_cohort(data, data.parent / "cache", Grid((12, 12, 6), (2.0, 2.0, 3.0)))
    assert second.slices(0).shape == (6, 4, 12, 12)
    assert all(entry.path.exists() for entry in first.entries)
    one = prepared(data, modalities=("flair",))
    assert one.slices(0).shape == (8, 1, 16, 16)
    np.testing.assert_array_equal(one.slices(0)[:, 0] > 0, first.slices(0)[:, 3] > 0)


def test_cases_of_the_same_name_in_two_folders_do_not_evict_each_other(data: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", "C0", scan(8))
    first = prepared(data)
    second = prepare_cohort(tmp_path / "other", data.parent / "cache", GRID)
    assert not np.array_equal(first.slices("C0"), second.slices("C0"))


def test_an_interrupted_case_is_made_again(data: Path) -> None:
    entry = prepared(data).entries[0]
    entry.path.with_suffix(".json").unlink()
    assert prepared(data).entries[0] == entry
    assert not list((data.parent / "cache").glob("*.tmp"))


@pytest.mark.slow
def test_worker_processes_give_the_same_files(data: Path, tmp_path: Path) -> None:
    alone = prepared(data)
    shared = prepare_cohort(data, tmp_path / "cache-2", GRID, workers=2)
    for one, two in zip(alone.entries, shared.entries, strict=True):
        assert one.path.name == two.path.name
        assert one.path.read_bytes() == two.path.read_bytes()
        assert one.conditions == two.conditions


def without(part: str) -> Change:
    def change(case: dict[str, np.ndarray]) -> None:
        del case[part]

    return change


def label_set(value: int) -> Change:
    def change(case: dict[str, np.ndarray]) -> None:
        case["seg"][0, 0, 0] = value

    return change


def shorter(case: dict[str, np.ndarray]) -> None:
    case["t2"] = case["t2"][:-1]


def no_tumour(case: dict[str, np.ndarray]) -> None:
    case["seg"][:] = 0


def nothing(case: dict[str, np.ndarray]) -> None:
    case["flair"][:] = 0


def not_finite(case: dict[str, np.ndarray]) -> None:
    case["t1"] = case["t1"].astype(np.float32)
    case["t1"][3, 3, 3] = np.nan


def four_dimensional(case: dict[str, np.ndarray]) -> None:
    case["t1"] = np.stack([case["t1"]] * 2, axis=-1)


def centred(case: dict[str, np.ndarray]) -> None:
    case["t1ce"] = np.where(case["t1ce"] > 0, case["t1ce"] - 600, 0).astype(np.int16)


FAULTS: list[tuple[Change, str]] = [
    (without("t2"), "missing modality t2"),
    (without("seg"), "missing segmentation"),
    (label_set(3), "unknown label 3; allowed: 0, 1, 2, 4"),
    (label_set(9), "unknown label 9"),
    (shorter, "mismatched shapes"),
    (no_tumour, "empty mask"),
    (nothing, "empty image"),
    (not_finite, "not finite"),
    (four_dimensional, "4-dimensional"),
    (centred, "negative values"),
]


def test_every_fault_of_every_case_is_listed_at_once(data: Path) -> None:
    for number, (change, _) in enumerate(FAULTS):
        case = scan(number)
        change(case)
        write(data, f"F{number}", case)
    write(data, "G0", scan(1), affines={"flair": np.diag([1, 1, 1.1, 1])})
    write(data, "G1", scan(1))
    broken = data / "G1" / "G1_t1.nii.gz"
    broken.write_bytes(broken.read_bytes()[:200])
    write(data, "G2", scan(1))
    (data / "G2" / "G2_t1.nii.gz").write_bytes(gzip.compress(b"no image at all"))
    with pytest.raises(InvalidInputError) as caught:
        prepared(data)
    message = str(caught.value)
    for number, (_, text) in enumerate(FAULTS):
        assert any(f"F{number}: " in line and text in line for line in message.splitlines()), text
    for text in ("G0: mismatched affines: G0_flair", "G1: G1_t1.nii.gz: unreadable", "G2: G2_t1.nii.gz: unreadable"):
        assert text in message
    assert "C0" not in message
    assert caught.value.exit_code == 3


def test_invalid_cases_can_be_left_out_with_a_warning(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    case = scan(9)
    no_tumour(case)
    write(data, "A", case)
    cohort = prepared(data, skip_invalid=True)
    assert cohort.cases == ("C0", "C1", "C2")
    assert list(cohort.left_out) == ["A"]
    assert "A: left out: A_seg.nii.gz: empty mask" in caplog.text


def test_nothing_sound_left_is_an_error_even_then(tmp_path: Path) -> None:
    case = scan(9)
    no_tumour(case)
    write(tmp_path / "data", "A", case)
    with pytest.raises(InvalidInputError, match="no sound case"):
        prepare_cohort(tmp_path / "data", tmp_path / "cache", GRID, skip_invalid=True)


def test_a_case_without_enhancing_tumour_is_fine(tmp_path: Path) -> None:
    case = scan(2)
    case["seg"][case["seg"] == 4] = 2
    write(tmp_path / "data", "A", case)
    conditions = prepare_cohort(tmp_path / "data", tmp_path / "cache", GRID).conditions
    assert conditions[0, 11] == 0


def test_progress_counts_every_case(data: Path) -> None:
    seen: list[tuple[int, int]] = []
    prepared(data, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.skipif(not REAL.is_dir(), reason="the two real cases are not here")
def test_real_cases_keep_their_volume_and_shares(tmp_path: Path) -> None:
    cohort = prepare_cohort(REAL, tmp_path)
    assert cohort.slices(0).shape == (64, 4, 128, 128)
    np.testing.assert_allclose(cohort.conditions[:, 0], [137.911, 56.512], rtol=0.01)
    np.testing.assert_allclose(cohort.conditions[0, 9:], [0.18495, 0.62328, 0.19178], atol=0.01)
