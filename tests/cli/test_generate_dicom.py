"""`generate --layout dicom`: held to `dciodvfy`, `dcm2niix` and highdicom; a run like those of other layouts."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import sbldm
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from skimage.draw import polygon2mask

from tests.support.commands import hashes

hd = pytest.importorskip("highdicom", reason="the extra dicom is not installed")
pydicom = pytest.importorskip("pydicom")

MODALITIES = ("t1", "t1ce", "t2", "flair")
CASE = "sbldm-000001"
CONTOURS = f"rtstruct/{CASE}_rtstruct.dcm"
TISSUES = {"ncr": 1, "ed": 2, "et": 4}  # in NIfTI files
WITH_CONTOURS = ("--layout", "dicom", "--rtstruct")
UNKNOWN_TAG = "Attribute with an even group number is not a recognized standard attribute - (0x0008,0x001c)"
"""Debian's dciodvfy is of 2022 and does not know Synthetic Data (0008,001C), a tag of the standard since 2023."""


def generate(bundle: Bundle, out: Path, *arguments: object) -> int:
    fixed = ["generate", "--bundle", str(bundle.path), "--steps", "2", "--threads", "1", "--quiet", "--out", str(out)]
    return main([*fixed, *map(str, arguments)])


@pytest.fixture(scope="module")
def run(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samples as DICOM with contours, and as NIfTI beside them. Do not write to it."""
    folder = tmp_path_factory.mktemp("dicom")
    assert generate(tiny_bundle, folder / "dicom", "--count", 2, *WITH_CONTOURS) == 0
    assert generate(tiny_bundle, folder / "brats", "--count", 2) == 0
    return folder / "dicom"


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian's dicom3tools; dcm2niix and plastimatch of the extra test)")
    return found


def voxels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj), image.affine


def as_nifti(run: Path, role: str) -> tuple[np.ndarray, np.ndarray]:
    return voxels(run.parent / "brats" / CASE / f"{CASE}_{role}.nii.gz")


def faults(path: Path) -> list[str]:
    """What dciodvfy calls an error in a file."""
    told = subprocess.run([tool("dciodvfy"), path], capture_output=True, text=True, check=False).stderr
    assert any(kind in told for kind in ("Image", "Segmentation", "RTStructureSet"))  # it knew the kind of file
    return [line for line in told.splitlines() if line.startswith(("Error", "Abort")) and UNKNOWN_TAG not in line]


@pytest.mark.parametrize(
    "name", [f"t1/{CASE}_t1_0001.dcm", f"flair/{CASE}_flair_0008.dcm", f"seg/{CASE}_seg.dcm", CONTOURS]
)
def test_dciodvfy_finds_no_error(run: Path, name: str) -> None:
    assert faults(run / CASE / name) == []


def test_dciodvfy_would_find_one(run: Path, tmp_path: Path) -> None:
    broken = pydicom.dcmread(run / CASE / "t1" / f"{CASE}_t1_0001.dcm")
    del broken.ScanningSequence
    broken.save_as(tmp_path / "broken.dcm")
    assert any("ScanningSequence" in fault or "Scanning" in fault for fault in faults(tmp_path / "broken.dcm"))


@pytest.mark.parametrize("role", MODALITIES)
def test_dcm2niix_gives_back_voxels_and_affine(run: Path, tmp_path: Path, role: str) -> None:
    made = [tool("dcm2niix"), "-o", tmp_path, "-f", "%p", "-b", "n", "-z", "n", run / CASE / role]
    subprocess.run(made, check=True, capture_output=True)
    image, affine = voxels(tmp_path / f"{role}.nii")
    wanted, placed = as_nifti(run, role)
    assert image.dtype == np.int16
    assert np.array_equal(image, wanted)
    assert np.allclose(affine, placed, atol=1e-3)


def test_highdicom_reads_the_mask_that_nifti_holds(run: Path) -> None:
    read = hd.seg.segread(run / CASE / "seg" / f"{CASE}_seg.dcm")
    wanted, placed = as_nifti(run, "seg")
    source = [pydicom.dcmread(path) for path in sorted((run / CASE / "t1ce").iterdir())]
    label = read.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in source], combine_segments=True, ignore_spatial_locations=False,
        assert_missing_frames_are_empty=True,
    )  # fmt: skip
    turned = label.transpose(2, 1, 0)[::-1, ::-1]  # rows run to the back, columns to the left
    assert np.array_equal(turned, np.where(wanted == 4, 3, wanted))
    assert np.allclose(placed[:3, 3], [-v for v in np.array(placed @ [*(n - 1 for n in wanted.shape), 1])[:3]])
    coded = {
        number: (told.segmented_property_type.value, told.segmented_property_type.scheme_designator)
        for number, told in ((n, read.get_segment_description(n)) for n in read.segment_numbers)
    }
    assert coded == {1: ("6574001", "SCT"), 2: ("79654002", "SCT"), 3: ("C113842", "NCIt")}


def test_plastimatch_makes_the_mask_of_nifti_out_of_the_contours(run: Path, tmp_path: Path) -> None:
    reference = run / CASE / "t1ce"
    convert = [tool("plastimatch"), "convert", "--input"]
    subprocess.run([*convert, reference, "--output-img", tmp_path / "t1ce.nii"], check=True, capture_output=True)
    asked = ["--referenced-ct", reference, "--fixed", tmp_path / "t1ce.nii", "--prefix-format", "nii"]
    made = [*convert, run / CASE / "rtstruct", *asked, "--output-prefix", tmp_path / "masks"]
    subprocess.run(made, check=True, capture_output=True)
    wanted, placed = as_nifti(run, "seg")
    for name, value in TISSUES.items():
        mask, affine = voxels(tmp_path / "masks" / f"{name}.nii")
        assert np.array_equal(mask > 0, wanted == value)
        assert np.allclose(affine, placed, atol=1e-3)


def test_contours_lie_on_the_slices_that_they_name_and_hold_the_voxels_of_nifti(run: Path) -> None:
    told = pydicom.dcmread(run / CASE / CONTOURS)
    (series,) = told.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence
    source = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, (run / CASE / "t1ce").iterdir())}
    assert {one.ReferencedSOPInstanceUID for one in series.ContourImageSequence} == source.keys()
    names = {roi.ROINumber: roi.ROIName for roi in told.StructureSetROISequence}
    assert list(names.values()) == list(TISSUES)
    wanted, placed = as_nifti(run, "seg")
    to_voxels = np.linalg.inv(placed) @ np.diag([-1.0, -1.0, 1.0, 1.0])  # patient coordinates of DICOM -> NIfTI's
    for roi in told.ROIContourSequence:
        mask = np.zeros(wanted.shape, bool)
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(contour.NumberOfContourPoints, 3)
            place = source[contour.ContourImageSequence[0].ReferencedSOPInstanceUID].ImagePositionPatient
            assert np.allclose(points[:, 2], place[2])
            x, y, z = (np.column_stack([points, np.ones(len(points))]) @ to_voxels.T).T[:3]
            mask[:, :, round(z[0])] |= polygon2mask(wanted.shape[:2], np.column_stack([x, y]))
        assert np.array_equal(mask, wanted == TISSUES[names[roi.ReferencedROINumber]])
    codes = [one.RTROIIdentificationCodeSequence[0].CodeValue for one in told.RTROIObservationsSequence]
    assert codes == ["6574001", "79654002", "C113842"]


def test_every_file_says_that_it_is_synthetic(run: Path) -> None:
    files = sorted(run.rglob("*.dcm"))
    assert len(files) == 2 * (4 * 8 + 2)
    bundle = json.loads((run / "run.json").read_text())["bundle"]["id"]
    for path in files:
        told = pydicom.dcmread(path, stop_before_pixels=True)
        assert told[0x0008001C].value == "YES"
        assert told.Modality == "RTSTRUCT" or "DERIVED" in told.ImageType  # contours are no image
        assert told.SeriesDescription.startswith("SYNTHETIC sbldm-engine")
        assert str(told.PatientName).startswith("SYNTHETIC^SBLDM")
        assert told.PatientID.startswith("SYNTHETIC-")
        (made,) = told.ContributingEquipmentSequence
        assert (made.Manufacturer, made.ManufacturerModelName) == ("sbldm-engine", bundle)
        assert "seed 0 sample" in made.ContributionDescription
        clocks = [
            e for e in told if e.VR in ("DA", "TM", "DT") and e.value and e.value != "19700101" and e.value != "000000"
        ]
        assert clocks == []


def test_one_patient_one_study_one_frame_of_reference_a_case(run: Path) -> None:
    seen: dict[str, list] = {}
    for path in run.rglob("*.dcm"):
        seen.setdefault(path.parts[-3], []).append(pydicom.dcmread(path, stop_before_pixels=True))
    for case in seen.values():
        for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
            assert len({one[keyword].value for one in case}) == 1
        assert len({one.SeriesInstanceUID for one in case}) == len({one.SeriesNumber for one in case}) == 6
    instances = [one.SOPInstanceUID for case in seen.values() for one in case]
    assert len(set(instances)) == len(instances)
    assert all(pydicom.uid.UID(uid).is_valid for uid in instances)
    studies = [{one.StudyInstanceUID for one in case}.pop() for case in seen.values()]
    assert studies[0] != studies[1]


def test_a_sample_made_again_alone_is_the_same_instance(tiny_bundle: Bundle, run: Path, tmp_path: Path) -> None:
    asked = ("--count", 2, "--samples", 1)
    assert generate(tiny_bundle, tmp_path / "again", *asked, *WITH_CONTOURS) == 0
    again = hashes(tmp_path / "again" / CASE)
    assert again
    assert again == hashes(run / CASE)
    assert generate(tiny_bundle, tmp_path / "without", *asked, "--layout", "dicom") == 0
    assert again == {CONTOURS: again[CONTOURS], **hashes(tmp_path / "without" / CASE)}


@pytest.mark.parametrize("asked", [("--seed", 1), ("--guidance", 2)])
def test_another_sample_is_another_instance(tiny_bundle: Bundle, run: Path, tmp_path: Path, asked: tuple) -> None:
    assert generate(tiny_bundle, tmp_path / "other", "--count", 1, *WITH_CONTOURS, *asked) == 0
    read = [pydicom.dcmread(p, stop_before_pixels=True) for folder in (run, tmp_path / "other")
            for p in sorted((folder / "sbldm-000000").rglob("*.dcm"))]  # fmt: skip
    assert len({one.SOPInstanceUID for one in read}) == len(read)
    assert len({one.FrameOfReferenceUID for one in read}) == 2


@pytest.mark.slow
def test_on_the_brats_grid_dcm2niix_gives_back_what_nifti_holds(tiny_bundle: Bundle, run: Path, tmp_path: Path) -> None:
    for layout in ("dicom", "brats"):
        assert generate(tiny_bundle, tmp_path / layout, "--count", 1, "--layout", layout, "--grid", "brats") == 0
    made = [tool("dcm2niix"), "-o", tmp_path, "-f", "%p", "-b", "n", "-z", "n", tmp_path / "dicom/sbldm-000000/t2"]
    subprocess.run(made, check=True, capture_output=True)
    instances = [pydicom.dcmread(next((folder / "sbldm-000000/t2").iterdir())) for folder in (run, tmp_path / "dicom")]
    assert instances[0].FrameOfReferenceUID != instances[1].FrameOfReferenceUID
    assert instances[0].SeriesInstanceUID != instances[1].SeriesInstanceUID
    image, affine = voxels(tmp_path / "t2.nii")
    wanted, placed = voxels(tmp_path / "brats/sbldm-000000/sbldm-000000_t2.nii.gz")
    assert np.array_equal(image, wanted)
    assert np.allclose(affine, placed, atol=1e-3)


def test_verify_measures_the_files_again_and_names_what_is_wrong(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    assert main(["verify", str(out)]) == 0
    damaged, missing = out / CASE / "t2" / f"{CASE}_t2_0003.dcm", out / CASE / "t1" / f"{CASE}_t1_0002.dcm"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    missing.unlink()
    (out / CASE / "t2" / f"{CASE}_t2_0009.dcm").write_bytes(b"")
    capsys.readouterr()
    assert main(["verify", str(out)]) == 3
    told = "".join(capsys.readouterr())
    for name, fault in ((damaged, "sha256"), (missing, "missing"), (out / CASE / "t2/x_t2_0009.dcm", "foreign")):
        assert name.name[-8:] in told
        assert fault in told


def test_resume_shards_workers_and_merge_give_the_same_bytes(tiny_bundle: Bundle, run: Path, tmp_path: Path) -> None:
    one, asked = tmp_path / "one", ("--count", 2, *WITH_CONTOURS)
    shutil.copytree(run, one)
    shutil.rmtree(one / CASE / "flair")
    assert generate(tiny_bundle, one, *asked, "--resume") == 0
    kept = {name: digest for name, digest in hashes(run).items() if not name.endswith("ledger.jsonl")}
    assert kept.items() <= hashes(one).items()
    for shard in ("0/2", "1/2"):
        assert generate(tiny_bundle, tmp_path / shard[0], *asked, "--shard", shard) == 0
    assert main(["merge", str(tmp_path / "0"), str(tmp_path / "1"), "--out", str(tmp_path / "merged")]) == 0
    merged = hashes(tmp_path / "merged")
    assert {name: digest for name, digest in kept.items() if name.endswith((".dcm", ".csv"))}.items() <= merged.items()
    rows = list(csv.DictReader((tmp_path / "merged/manifest.csv").open()))
    assert [len(row["files"].split(";")) for row in rows] == [34, 34]


def test_preview_and_report_show_dicom_as_nifti(tiny_bundle: Bundle, run: Path, tmp_path: Path) -> None:
    from PIL import Image

    for layout, out in (("dicom", run), ("brats", run.parent / "brats")):
        shutil.copytree(out, tmp_path / layout)
        asked = ("--count", 2, *(WITH_CONTOURS if layout == "dicom" else ()), "--resume", "--preview", "--report")
        assert generate(tiny_bundle, tmp_path / layout, *asked) == 0
        assert (tmp_path / layout / "report.html").stat().st_size > 10_000
    pictures = [np.asarray(Image.open(tmp_path / layout / "preview.png")) for layout in ("dicom", "brats")]
    assert np.array_equal(*pictures)


def test_the_python_interface_saves_the_same_bytes(tiny_bundle: Bundle, run: Path, tmp_path: Path) -> None:
    with sbldm.load(tiny_bundle.path, threads=1) as generator:
        sample = generator.sample(1, seed=0, steps=2)
    saved = sample.save(tmp_path, layout="dicom", rtstruct=True)
    assert hashes(tmp_path / CASE) == hashes(run / CASE)
    assert saved["t1"] == tmp_path / CASE / "t1"
    assert saved["seg"].is_file()
    assert saved["rtstruct"] == tmp_path / CASE / CONTOURS


def test_contours_belong_to_dicom(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    assert generate(tiny_bundle, tmp_path / "out", "--count", 1, "--rtstruct") == 2
    assert "--rtstruct belongs to --layout dicom, not to brats" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_the_extra_nothing_is_written(tiny_bundle: Bundle, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sbldm.engine.dicom.extra.PACKAGES", ("pydicom", "no_such_package"))
    assert generate(tiny_bundle, tmp_path / "out", "--count", 1, "--layout", "dicom") == 2
    assert 'pip install "sbldm-engine[dicom]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
