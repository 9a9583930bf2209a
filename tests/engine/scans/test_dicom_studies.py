"""Studies as a hospital gives them, whole and broken: read, or refused with the reason, series by series."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sbldm.engine.bundle.manifest import MODALITIES
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.engine.scans.cases import Discovery
from sbldm.engine.scans.discover import discover_cases
from sbldm.engine.scans.options import ReadOptions, parse_map
from sbldm.engine.scans.read import CaseError, RawCase, decode_case, read_contents

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedMRImageStorage, RLELossless, generate_uid  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

from tests.support.dicom_study import editing, files_of, stack, volumes, write_study  # noqa: E402


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound study. Do not write to it."""
    return write_study(tmp_path_factory.mktemp("study") / "case-1")


@pytest.fixture
def study(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be broken."""
    return Path(shutil.copytree(whole, tmp_path / "case-1"))


def discovered(folder: Path, series: str = "") -> Discovery:
    return discover_cases(folder, MODALITIES, ReadOptions(series=parse_map(series)), dicom=True)


def faults(folder: Path, series: str = "") -> str:
    return "; ".join(text for texts in discovered(folder, series).faults.values() for text in texts)


def read(folder: Path, series: str = "") -> RawCase:
    found = discovered(folder, series)
    assert found.faults == {}
    (case,) = found.cases
    return decode_case(case, MODALITIES, read_contents(case, MODALITIES), ReadOptions())


def each(study: Path, modality: str, **changes: Any) -> None:
    """Set elements of every file of a series."""
    for path in files_of(study, modality):
        with editing(path) as one:
            for keyword, value in changes.items():
                setattr(one, keyword, value)


def test_a_study_is_read_by_its_headers_alone(whole: Path) -> None:
    images, label = volumes()
    raw = read(whole)
    for modality, image in zip(MODALITIES, images, strict=True):
        assert np.array_equal(raw.images[modality], image)
    assert np.array_equal(raw.label, label)
    assert np.allclose(raw.affine, stack().ras)
    (case,) = discovered(whole).cases
    assert case.name == "case-1"  # nothing of the patient
    assert case.meaning.described() == "1 necrosis, 2 oedema, 3 enhancing"


def test_an_oblique_study_keeps_its_places(tmp_path: Path) -> None:
    turn = Rotation.from_euler("xyz", (8, -12, 20), degrees=True).as_matrix()
    raw = read(write_study(tmp_path / "oblique", turn))
    assert np.allclose(raw.affine, stack(turn).ras, atol=1e-6)
    assert np.array_equal(raw.label, volumes()[1])


def test_scaled_and_compressed_pixels_are_read_as_they_stand_for(study: Path) -> None:
    wanted = volumes()[0][2]
    for path in files_of(study, "t2"):
        one = pydicom.dcmread(path)
        one.compress(RLELossless, generate_instance_uid=False)
        one.RescaleSlope, one.RescaleIntercept = 0.5, 10
        one.save_as(path)
    assert np.allclose(read(study).images["t2"], wanted * 0.5 + 10)


def tilted(study: Path) -> None:
    for path in files_of(study, "t2"):
        with editing(path) as one:
            x, y, z = one.ImagePositionPatient
            one.ImagePositionPatient = [x, y + 0.1 * z, z]


def missing_slice(study: Path) -> None:
    files_of(study, "flair")[7].unlink()


def doubled(study: Path) -> None:
    first = files_of(study, "t1")[0]
    with editing(Path(shutil.copy(first, study / "again"))) as one:
        one.SOPInstanceUID = generate_uid()


def other_patient(study: Path) -> None:
    each(study, "t2", PatientID="MRN-1", PatientName="Other^One")


def undecodable(study: Path) -> None:
    for path in files_of(study, "t1"):
        one = pydicom.dcmread(path)
        one.compress(RLELossless, generate_instance_uid=False)
        one.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"  # says JPEG 2000
        one.save_as(path)


def overlapping(study: Path) -> None:
    with editing(study / "SEG") as one:
        frames = one.PerFrameFunctionalGroupsSequence
        middle = max(
            range(len(frames)), key=lambda k: frames[k].SegmentIdentificationSequence[0].ReferencedSegmentNumber
        )
        frames[middle - 1].PlanePositionSequence = frames[middle].PlanePositionSequence
        bits = np.ones(one.pixel_array.size, np.uint8)
        one.PixelData = np.packbits(bits, bitorder="little").tobytes()


BROKEN: list[tuple[Callable[[Path], object], str]] = [
    (lambda s: [p.unlink() for p in files_of(s, "t2")], "missing modality t2"),
    (lambda s: (s / "SEG").unlink(), "missing segmentation"),
    (lambda s: each(s, "t1ce", ContrastBolusAgent="", SeriesDescription="T1"), "2 series may be t1: series 3.*--map"),
    (lambda s: each(s, "t2", SeriesDescription="AX X", EchoTime=None), "missing modality t2 .not recognised: series 4"),
    (lambda s: each(s, "t2", FrameOfReferenceUID=""), "has no Frame of Reference"),
    (tilted, "is sheared, as by a tilted gantry"),
    (lambda s: each(s, "t2", GantryDetectorTilt=12), "t2, series 4 .*tilted gantry"),
    (missing_slice, r"flair, series 5.*slices are missing or doubled: 16 mm after slice"),
    (doubled, "slices are missing or doubled|several images in one place"),
    (other_patient, "mixed: one Study Instance UID, but more than one PatientID"),
    (lambda s: each(s, "t1ce", BurnedInAnnotation="YES"), "t1ce, series 8.*text burned into its pixels"),
    (lambda s: each(s, "t1", PhotometricInterpretation="MONOCHROME1"), "is MONOCHROME1, must be MONOCHROME2"),
    (lambda s: each(s, "t1", SOPClassUID=EnhancedMRImageStorage), "enhanced MR images.*emf2sf"),
    (lambda s: each(s, "t1", PixelSpacing=[0.001, 0.001]), "allowed are 0.1 to 20 mm"),
    (lambda s: each(s, "t1", ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "not perpendicular"),
    (lambda s: each(s, "t1", ImagePositionPatient=None), "geometry cannot be read"),
    (lambda s: shutil.copy(s / "SEG", s / "SEG2"), "holds 2 segmentations.*--map seg="),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "told"), BROKEN, ids=[told[:30] for _, told in BROKEN])
def test_what_cannot_be_used_is_refused_with_the_reason(study: Path, damage: Callable, told: str) -> None:
    damage(study)
    assert re.search(told, faults(study)), faults(study)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (undecodable, r"t1, series 3.*pixels cannot be decoded \(JPEG 2000.*gdcmconv --raw"),
        (lambda s: each(s, "t2", PixelSpacing=[2.9, 2.9]), "mismatched affines: t2, series 4"),
        (overlapping, "overlap in slice|frame lies on none"),
    ],
)  # fmt: skip
def test_what_only_the_pixels_tell_is_refused_too(study: Path, damage: Callable, told: str) -> None:
    damage(study)
    with pytest.raises(CaseError, match=told):
        read(study)


def test_images_of_two_frames_of_reference_are_no_case(study: Path) -> None:
    each(study, "flair", FrameOfReferenceUID="1.9")
    told = faults(study)
    assert "different frames of reference" in told
    assert "flair, series 5 (AX T2 FLAIR): 1.9" in told
    assert "nothing is registered here" in told


def test_two_studies_in_one_folder_are_two_cases(study: Path) -> None:
    for path in files_of(study, "t2"):
        with editing(path) as one:
            one.StudyInstanceUID = "1.2.3.9"
    found = discovered(study)
    assert len(found.faults) == 2
    assert all(name.startswith("case-1-") for name in found.faults)


def test_files_that_are_damaged_or_deflated_are_named_and_left_out(study: Path) -> None:
    first, second = files_of(study, "t1")[:2]
    first.write_bytes(first.read_bytes()[:300])
    one = pydicom.dcmread(second)
    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    one.save_as(second)
    notes = " ".join(discovered(study).notes)
    assert "deflated as a whole" in notes
    assert second.name in notes


def test_the_user_says_which_series_is_which(study: Path) -> None:
    each(study, "t1ce", ContrastBolusAgent="", SeriesDescription="AX T1")
    images, _ = volumes()
    assert np.array_equal(read(study, "t1ce=8").images["t1ce"], images[1])
    assert np.array_equal(read(study, "t1=8,t1ce=3").images["t1"], images[1])


@pytest.mark.parametrize("text", ["t1", "t1=", "dwi=3", "t1=3,t1=4", "t1=3,t2=3", "t1=x", "t1=3;t2=4"])
def test_a_map_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--map"):
        parse_map(text)


def test_codes_say_what_segments_are_and_labels_where_there_is_no_code(study: Path) -> None:
    with editing(study / "SEG") as one:
        first, second, third = one.SegmentSequence
        first.SegmentLabel, second.SegmentLabel = "et", "ncr"  # codes count
        third.SegmentedPropertyTypeCodeSequence[0].CodeValue = "99"
        third.SegmentLabel = "Enhancing tumour"
    (case,) = discovered(study).cases
    assert case.meaning.described() == "1 necrosis, 2 oedema, 3 enhancing"
    with editing(study / "SEG") as one:
        one.SegmentSequence[2].SegmentLabel = "Ventricle"
    assert "cannot tell which label" in faults(study)


def test_training_says_where_dicom_is_read(whole: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"augment \(without --insert and --remove\) and conditions measure"):
        discover_cases(whole, MODALITIES)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_damaged_bytes_end_in_a_reason(whole: Path, tmp_path_factory: pytest.TempPathFactory, data) -> None:
    folder = tmp_path_factory.mktemp("bytes") / "case"
    folder.mkdir()
    for name in ("SEG", *(path.name for modality in MODALITIES for path in files_of(whole, modality)[:2])):
        content = bytearray((whole / name).read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(132, len(content) - 1 if data.draw(st.booleans()) else 900))
            content[at] = data.draw(st.integers(0, 255))
        (folder / name).write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
    with suppress(InvalidInputError, CaseError):  # anything else is a mistake of ours
        found = discovered(folder)
        for case in found.cases:
            if case.name not in found.faults:
                decode_case(case, MODALITIES, read_contents(case, MODALITIES), ReadOptions())
