"""Plausibility and placement of prepared scans, and a check that sees what train takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sbldm.engine.bundle.manifest import DEFAULT_GRID, MODALITIES, Grid
from sbldm.engine.conditions.columns import COLUMNS
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.output.layouts import DatasetFacts, make_layout
from sbldm.engine.scans.check import CaseReport, DataCheck
from sbldm.engine.scans.measure import measure_cohort
from sbldm.engine.scans.options import ReadOptions, read_options
from sbldm.train.data.cohort import prepare_cohort

from tests.support.scans import MODALITIES as PARTS
from tests.support.scans import affine, arrays, save, write_case, write_nnunet

VIEW = DEFAULT_GRID.fov_mm
COARSE = Grid((64, 64, 32), (3.0, 3.0, 4.8))
Change = Callable[[dict[str, np.ndarray]], None]


def reports(folder: Path, options: ReadOptions | None = None) -> dict[str, CaseReport]:
    return {report.case: report for report, _ in DataCheck(folder, MODALITIES, VIEW, options).cases()}


def report(folder: Path, options: ReadOptions | None = None) -> CaseReport:
    (only,) = reports(folder, options).values()
    return only


def residue(case: dict[str, np.ndarray]) -> None:
    noise = 0.001 * (1 + np.indices(case["t1"].shape).sum(0) % 3)
    for part in PARTS:
        case[part] = case[part] + noise.astype(np.float32)


def one_padded(case: dict[str, np.ndarray]) -> None:
    case["t1"] = np.maximum(case["t1"], 1)


def padded_on_one_side(case: dict[str, np.ndarray]) -> None:
    case["t2"][:6] = 7


def min_max_of_z_scores(case: dict[str, np.ndarray]) -> None:
    for part in PARTS:
        case[part] = (0.45 + 0.5 * case[part] / case[part].max()).astype(np.float32)


def frame_within_zeros(case: dict[str, np.ndarray]) -> None:
    case["flair"][4:-4, 3:-3, 2:-2] += 5


def z_scored(case: dict[str, np.ndarray]) -> None:
    brain = case["t1ce"] > 0
    case["t1ce"] = np.where(brain, case["t1ce"] / 100.0 - 4, 0).astype(np.float32)


def cut_off(case: dict[str, np.ndarray]) -> None:
    case["t1"] = np.minimum(case["t1"], 255)


def same_twice(case: dict[str, np.ndarray]) -> None:
    case["t2"] = case["flair"].copy()


def empty(case: dict[str, np.ndarray]) -> None:
    case["t2"] = case["t2"] * 0


def half_a_brain(case: dict[str, np.ndarray]) -> None:
    case["t1"][:20] = 0


@pytest.mark.parametrize(
    ("change", "file", "named"),
    [
        (residue, "t1", "background is not 0: 100 % of the border"),
        (one_padded, "t1", "background is not 0"),
        (padded_on_one_side, "t2", "background is not 0"),
        (min_max_of_z_scores, "flair", "(background about 0.45)"),
        (frame_within_zeros, "flair", "background is not 0"),
        (z_scored, "t1ce", "z-scored"),
        (cut_off, "t1", "saturation"),
        (same_twice, "flair", "same image as A_t2"),
        (empty, "t2", "empty image"),
        (half_a_brain, "t1", "brain masks differ"),
    ],
)
def test_images_that_the_model_cannot_take_are_faults_with_the_figure(
    tmp_path: Path, change: Change, file: str, named: str
) -> None:
    case = arrays()
    change(case)
    write_case(tmp_path, "A", case)
    assert any(f"A_{file}.nii.gz: " in fault and named in fault for fault in report(tmp_path).faults)


def test_a_sound_case_has_no_fault_and_its_figures(tmp_path: Path) -> None:
    write_case(tmp_path, "A")
    sound = report(tmp_path)
    assert (sound.faults, sound.warnings) == ((), ())
    assert sound.found["orientation"] == "RAS"
    assert sound.found["spacing_mm"] == [4.0, 4.0, 4.8]
    seg = arrays()["seg"]
    volumes = {t: np.count_nonzero(seg == n) * 0.0768 for t, n in (("ncr", 1), ("ed", 2), ("et", 4))}
    assert sound.found["tissues_ml"] == pytest.approx(volumes, abs=1e-3)
    assert sound.found["field_of_view"]["centred_on"] == "scan"
    json.dumps(sound.as_dict(), allow_nan=False)


@pytest.mark.parametrize("degrees", [0, 20])
@pytest.mark.parametrize(
    ("shape", "offset", "moved"),
    [((48, 48, 52), (0, 0, 50), 50.0), ((48, 48, 60), (0, 0, 80), 80.0), ((70, 48, 32), (-60, 0, 0), -60.0)],
)
def test_the_field_of_view_follows_a_brain_that_it_would_cut(
    tmp_path: Path, shape: tuple[int, ...], offset: tuple[float, ...], moved: float, degrees: float
) -> None:
    axis = int(np.argmax(np.abs(offset)))
    case = arrays(shape, offset=offset)
    write_case(tmp_path, "A", case, affine(shape=shape, degrees=degrees, axis=axis))
    checked = report(tmp_path)
    assert checked.faults == ()
    view = checked.found["field_of_view"]
    assert view["centred_on"] == "brain"
    assert view["moved_mm"][axis] == pytest.approx(moved, abs=4.8)
    assert any("centred on the brain" in text for text in checked.warnings)
    measured = measure_cohort(tmp_path, COLUMNS, VIEW)
    assert measured.warnings == tuple(f"A: {text}" for text in checked.warnings)
    trained = prepare_cohort(tmp_path, tmp_path / "cache", COARSE).conditions[0]
    mask_ml = np.count_nonzero(case["seg"]) * 0.0768
    assert measured.rows[0, 0] == pytest.approx(mask_ml)
    assert trained[0] == pytest.approx(mask_ml, rel=0.03 if degrees else 0.02)
    assert np.abs(measured.rows[0, 3:6] - trained[3:6]).max() < 0.01


def test_a_tumour_outside_of_the_field_of_view_is_a_fault_everywhere(tmp_path: Path) -> None:
    case = arrays((48, 48, 60))
    case["seg"] = np.roll(case["seg"], 22, axis=2)
    write_case(tmp_path, "A", case, affine(shape=(48, 48, 60)))
    (fault,) = report(tmp_path).faults
    assert "% of the tumour lies outside the field of view of 192 x 192 x 153.6 mm" in fault
    assert f"A: {fault}" in measure_cohort(tmp_path, COLUMNS, VIEW).faults
    with pytest.raises(InvalidInputError, match="tumour lies outside"):
        prepare_cohort(tmp_path, tmp_path / "cache", COARSE)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("degrees", [5, 40])
def test_places_in_oblique_scans_are_those_of_the_patient(tmp_path: Path, axis: int, degrees: float) -> None:
    matrix = affine(degrees=degrees, axis=axis)
    case = arrays(tumour=(20.0, 15.0, 8.0))
    write_case(tmp_path, "A", case, matrix)
    truth = (matrix[:3, :3] @ np.argwhere(case["seg"]).mean(0) + matrix[:3, 3]) / VIEW + 0.5
    measured = measure_cohort(tmp_path, COLUMNS, VIEW).rows[0]
    assert np.abs(measured[3:6] - truth).max() < 1e-3
    trained = prepare_cohort(tmp_path, tmp_path / "cache", COARSE).conditions[0]
    assert np.abs(measured[3:6] - trained[3:6]).max() < 0.01
    assert np.abs(measured[6:9] - trained[6:9]).max() < 0.05


@pytest.mark.parametrize("order", ["LPS", "SRA", "PIL", "IAR"])
def test_a_mask_in_another_axis_order_is_the_same_mask(tmp_path: Path, order: str) -> None:
    for name in ("straight", "turned"):
        write_case(tmp_path / name, "A")
    seg = nib.load(tmp_path / "turned" / "A" / "A_seg.nii.gz")
    codes = nib.orientations.axcodes2ornt(tuple(order))
    nib.save(
        seg.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(seg.affine), codes)),
        tmp_path / "turned" / "A" / "A_seg.nii.gz",
    )
    one, two = (prepare_cohort(tmp_path / n, tmp_path / f"c-{n}", COARSE) for n in ("straight", "turned"))
    assert np.array_equal(one.label(0), two.label(0))
    assert np.array_equal(one.slices(0), two.slices(0))
    moved = affine()
    moved[0, 3] += 5
    save(tmp_path / "turned" / "A" / "A_seg.nii.gz", arrays()["seg"], moved)
    assert "lies 5 mm away" in report(tmp_path / "turned").faults[0]


def test_a_cavity_is_a_choice(tmp_path: Path) -> None:
    case = arrays(numbers=(1, 2, 3))
    case["seg"][20:24, 20:24, 15:17] = 4
    write_case(
        tmp_path, "BraTS-GLI-02405-100", case, separator="-",
        names={"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f"},
    )  # fmt: skip
    (fault,) = report(tmp_path).faults
    assert "resection cavity (label 4)" in fault
    assert "--cavity background" in fault
    left_out = report(tmp_path, read_options(cavity="background"))
    counted = report(tmp_path, read_options(cavity="necrosis"))
    assert "left out" in left_out.warnings[0]
    gained = counted.found["tissues_ml"]["ncr"] - left_out.found["tissues_ml"]["ncr"]
    assert gained == pytest.approx(left_out.found["cavity_ml"]) == pytest.approx(32 * 0.0768, abs=1e-3)
    reread = report(tmp_path, read_options("necrosis=1,oedema=2,enhancing=3,background=0,cavity=4", "background"))
    assert reread.found["tissues_ml"] == left_out.found["tissues_ml"]


def test_a_label_that_nobody_annotated_is_told(tmp_path: Path) -> None:
    write_nnunet(tmp_path, {"background": 0, "necrosis": 1, "edema": 2, "ignore": 3})
    (told,) = report(tmp_path).warnings
    assert "labelled ignore" in told


@pytest.mark.parametrize(("labels", "numbers"), [({"background": 0, "tumor": 1}, (1, 1, 1)), (None, (1, 1, 1))])
def test_one_tumour_label_has_unknown_shares(tmp_path: Path, labels: object, numbers: tuple[int, ...]) -> None:
    if labels is not None:
        write_nnunet(tmp_path, labels, numbers)
    else:
        write_case(tmp_path, "A", arrays(numbers=numbers))
    measured = measure_cohort(tmp_path, COLUMNS, VIEW)
    assert np.isnan(measured.rows[0, 9:]).all()
    assert np.isfinite(measured.rows[0, :9]).all()
    assert np.isnan(prepare_cohort(tmp_path, tmp_path / "cache", COARSE).conditions[0, 9:]).all()
    told = measure_cohort(tmp_path, COLUMNS, VIEW, options=read_options("necrosis=1"))
    assert told.rows[0, 9:].tolist() == [1, 0, 0]


def test_channels_of_one_file_are_told_apart(tmp_path: Path) -> None:
    case = arrays(numbers=(2, 1, 3))
    save(tmp_path / "imagesTr" / "B_001.nii.gz", np.stack([case[m] for m in ("flair", "t1", "t1ce", "t2")], axis=-1))
    save(tmp_path / "labelsTr" / "B_001.nii.gz", case["seg"])
    description = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": [{"image": "./imagesTr/B_001.nii.gz", "label": "./labelsTr/B_001.nii.gz"}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    write_case(tmp_path / "apart", "B_001")
    together = prepare_cohort(tmp_path, tmp_path / "c1", COARSE)
    apart = prepare_cohort(tmp_path / "apart", tmp_path / "c2", COARSE)
    assert np.array_equal(together.slices(0), apart.slices(0))
    assert np.array_equal(together.label(0), apart.label(0))


def test_one_faulty_case_ends_no_other(tmp_path: Path) -> None:
    write_case(tmp_path, "good")
    write_case(tmp_path, "empty", arrays() | {"seg": arrays()["seg"] * 0})
    write_case(tmp_path, "nocode", sform=0, qform=0)
    (tmp_path / "torn").mkdir()
    for part in (*PARTS, "seg"):
        (tmp_path / "torn" / f"torn_{part}.nii.gz").write_bytes(b"\x1f\x8b")
    found = reports(tmp_path)
    assert [name for name, one in found.items() if one.is_sound] == ["good"]
    assert len(found["torn"].faults) == 5
    cohort = prepare_cohort(tmp_path, tmp_path / "cache", COARSE, skip_invalid=True)
    assert cohort.cases == ("good",)
    assert {n: tuple(f) for n, f in cohort.left_out.items()} == {n: o.faults for n, o in found.items() if o.faults}


@pytest.mark.parametrize(
    ("name", "names"), [("brats", "2021"), ("brats", "2023"), ("nnunet", "2021"), ("bids", "2021")]
)
def test_our_own_layouts_are_read_back_alike(tmp_path: Path, name: str, names: str) -> None:
    layout = make_layout(name, MODALITIES, ("background", "ncr", "ed", "et"), names)
    case = arrays(numbers=(1, 2, 3))
    for role, path in layout.paths(0).items():
        save(tmp_path / "run" / path, layout.file_labels(case["seg"]) if role == "seg" else case[role])
    for path, content in layout.dataset_files(DatasetFacts((0,), "tiny", "0" * 64, "0", "")).items():
        (tmp_path / "run" / path).write_bytes(content)
    write_case(tmp_path / "plain", "A")
    ours = prepare_cohort(tmp_path / "run", tmp_path / "c1", COARSE)
    plain = prepare_cohort(tmp_path / "plain", tmp_path / "c2", COARSE)
    assert np.array_equal(ours.slices(0), plain.slices(0))
    assert np.array_equal(ours.label(0), plain.label(0))
    assert ours.conditions[0].tolist() == plain.conditions[0].tolist()


@pytest.mark.parametrize(("units", "scale"), [(1, 1e-3), (3, 1e3), (0, 1.0)])
def test_units_are_converted_and_what_is_left_is_a_fault_of_its_case(tmp_path: Path, units: int, scale: float) -> None:
    for told in (units, 2):
        write_case(tmp_path / "data", f"A{told}")
    stored = affine()
    stored[:3] *= scale

    def declare(unit: int) -> None:
        for part, array in arrays().items():
            image = nib.Nifti1Image(array, stored)
            image.header["xyzt_units"] = unit
            nib.save(image, tmp_path / "data" / f"A{units}" / f"A{units}_{part}.nii.gz")

    declare(units)
    cohort = prepare_cohort(tmp_path / "data", tmp_path / "c1", COARSE)
    apart = np.abs(cohort.slices(f"A{units}").astype(int) - cohort.slices("A2"))
    assert apart.max() <= 1  # headers hold float32
    assert np.array_equal(cohort.label(f"A{units}"), cohort.label("A2"))
    declare(2)
    skipped = prepare_cohort(tmp_path / "data", tmp_path / "c1", COARSE, skip_invalid=True)
    assert set(skipped.left_out) == (set() if units == 0 else {f"A{units}"})
    assert all("voxel size is" in fault for faults in skipped.left_out.values() for fault in faults)
