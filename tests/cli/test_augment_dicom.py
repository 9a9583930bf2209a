"""A study goes in and comes out as DICOM: in the source's voxels and study where asked, with nothing of it else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle

from tests.support.commands import hashes

highdicom = pytest.importorskip("highdicom", reason="the extra dicom is not installed")
pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from scipy.spatial.transform import Rotation  # noqa: E402
from skimage.draw import polygon2mask  # noqa: E402

from tests.support.dicom_study import FRAME, files_of, stack, volumes, write_study  # noqa: E402

TURN = Rotation.from_euler("xyz", (4, -6, 10), degrees=True).as_matrix()
OF_THE_PATIENT = ("Doe^Jane", "MRN-4711", "19600102", "House^Gregory", "ACC1", "20200304", "ward 3", "1.2.3.4")
WRITE_BACK = ("--count", 1, "--layout", "dicom", "--grid", "source")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oblique study. Do not write to it."""
    return write_study(tmp_path_factory.mktemp("study") / "case-1", TURN)


def augment(bundle: Bundle, study: Path, out: Path, *arguments: object) -> int:
    fixed = ["augment", str(study), "--bundle", str(bundle.path), "--steps", "2", "--threads", "1", "--quiet"]
    return main([*fixed, "--strength", "0.5", "--out", str(out), *map(str, arguments)])


def series(out: Path, role: str) -> list:
    return [pydicom.dcmread(path) for path in sorted((out / "sbldm-000000" / role).iterdir())]


def volumes_of(out: Path) -> np.ndarray:
    """The answer's segments by another reader: (column, row, slice, segment)."""
    read = highdicom.seg.segread(out / "sbldm-000000" / "seg" / "sbldm-000000_seg.dcm")
    instances = [one.SOPInstanceUID for one in series(out, "t1ce")]
    pixels = read.get_pixels_by_source_instance(instances, assert_missing_frames_are_empty=True)
    return pixels.transpose(2, 1, 0, 3) > 0


@pytest.fixture(scope="module")
def kept(tiny_bundle: Bundle, study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The answer in the study of its source. Do not write to it."""
    out = tmp_path_factory.mktemp("kept") / "run"
    assert augment(tiny_bundle, study, out, *WRITE_BACK, "--rtstruct", "--identity", "keep") == 0
    return out


def test_the_answer_lies_on_the_voxels_of_the_source(study: Path, kept: Path) -> None:
    source = [pydicom.dcmread(path) for path in files_of(study, "t1")]
    source.sort(key=lambda one: one.InstanceNumber)
    for role in ("t1", "flair"):
        for made, given in zip(series(kept, role), source, strict=True):
            assert np.allclose(made.ImagePositionPatient, given.ImagePositionPatient, atol=1e-4)
            assert np.allclose(made.ImageOrientationPatient, given.ImageOrientationPatient, atol=1e-6)
            assert np.allclose(made.PixelSpacing, given.PixelSpacing)
            assert (made.Rows, made.Columns) == (given.Rows, given.Columns)


def test_contours_of_oblique_slices_hold_the_mask(kept: Path) -> None:
    told, mask = series(kept, "rtstruct")[0], volumes_of(kept)
    assert mask.any(axis=(0, 1, 2)).all()
    to_voxels = np.linalg.inv(stack(TURN).affine)
    for roi, wanted in zip(told.ROIContourSequence, mask.transpose(3, 0, 1, 2), strict=True):
        drawn = np.zeros(wanted.shape, bool)
        for contour in roi.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            column, row, slice_ = (np.column_stack([points, np.ones(len(points))]) @ to_voxels.T).T[:3]
            assert np.allclose(slice_, round(slice_[0]), atol=1e-4)
            drawn[:, :, round(slice_[0])] |= polygon2mask(wanted.shape[:2], np.column_stack([column, row]))
        assert np.array_equal(drawn, wanted)


def test_kept_identity_is_the_patient_the_study_and_the_space_and_new_series(study: Path, kept: Path) -> None:
    source = pydicom.dcmread(study / "SEG")
    made = [series(kept, role)[0] for role in ("t1", "t1ce", "t2", "flair", "seg", "rtstruct")]
    for one in made:
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
                        "StudyID", "AccessionNumber", "FrameOfReferenceUID"):  # fmt: skip
            assert one[keyword].value == source[keyword].value, keyword
        assert one[0x0008001C].value == "YES"
        assert one.SeriesDescription.startswith("SYNTHETIC")
        assert one.SeriesNumber > 9000
        assert not any(element.tag.is_private for element in one)
    taken = {pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID for path in study.iterdir()}
    assert taken.isdisjoint(one.SeriesInstanceUID for one in made)
    assert "from a real case, protect it as that" in made[0].ImageComments
    assert "from a real case, protect it as that" in (kept / "README").read_text()


def test_replaced_identity_leaves_nothing_of_the_patient(tiny_bundle: Bundle, study: Path, tmp_path: Path) -> None:
    assert augment(tiny_bundle, study, tmp_path / "run", *WRITE_BACK) == 0
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in OF_THE_PATIENT if word.encode() in content], path.name
    one = series(tmp_path / "run", "t1")[0]
    assert str(one.PatientName).startswith("SYNTHETIC^SBLDM")
    assert one.FrameOfReferenceUID != FRAME
    assert np.allclose(one.ImagePositionPatient, stack(TURN).position(0), atol=1e-4)  # geometry is kept as asked


def test_of_a_kept_identity_only_dicom_files_tell(kept: Path) -> None:
    for path in kept.iterdir():
        if path.is_file():
            content = path.read_bytes()
            assert not [word for word in OF_THE_PATIENT if word.encode() in content], path.name
    assert json.loads((kept / "run.json").read_text())["source"]["identity"] == "keep"


def test_resume_workers_and_verify(tiny_bundle: Bundle, study: Path, kept: Path, tmp_path: Path, capsys) -> None:
    asked = (*WRITE_BACK, "--rtstruct", "--identity", "keep")
    assert augment(tiny_bundle, study, tmp_path / "again", *asked, "--workers", 2) == 0
    assert hashes(tmp_path / "again/sbldm-000000") == hashes(kept / "sbldm-000000")
    assert main(["verify", str(kept)]) == 0
    capsys.readouterr()
    assert augment(tiny_bundle, study, tmp_path / "again", *WRITE_BACK, "--rtstruct", "--resume") == 2
    assert "source: the run has" in capsys.readouterr().err  # another identity


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--identity", "keep"), "--identity keep: needs --layout dicom and --grid source"),
        (("--identity", "keep", "--layout", "dicom"), "--identity keep: needs --layout dicom and --grid source"),
        (("--identity", "lend"), "--identity lend: allowed: keep, replace"),
        (("--map", "t1=8"), "missing modality t1ce"),
        (("--map", "pet=8"), "--map"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tiny_bundle: Bundle, study: Path, tmp_path: Path, capsys, asked, told
) -> None:
    assert augment(tiny_bundle, study, tmp_path / "out", "--count", 1, *asked) in (2, 3)
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_generate_has_no_source(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    asked = ["generate", "--bundle", str(tiny_bundle.path), "--count", "1", "--out", str(tmp_path / "out")]
    assert main([*asked, "--grid", "source"]) == 2
    assert "--grid source: is for augment" in capsys.readouterr().err


def test_measure_reads_studies_as_nifti(study: Path, capsys) -> None:
    assert main(["conditions", "measure", str(study)]) == 0
    header, row = capsys.readouterr().out.splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=True))
    voxel_ml = 3 * 3 * 8 / 1000
    assert values["id"] == "case-1"
    assert float(values["volume_ml"]) == pytest.approx((volumes()[1] > 0).sum() * voxel_ml, rel=1e-4)
    assert float(values["ncr_share"]) == pytest.approx((volumes()[1] == 1).sum() / (volumes()[1] > 0).sum(), rel=1e-4)
