"""Names and data set files of each layout, held to nnU-Net's own integrity check and to the BIDS validator."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import UsageError
from sbldm.engine.output.layouts import DatasetFacts, make_layout

from tests.support.nnunet import by_nnunet

MODALITIES = ("t1", "t1ce", "t2", "flair")
CASE = "sbldm-000007"
SUBJECT = "sub-sbldm000007/anat/sub-sbldm000007"
LABELS = ("background", "ncr", "ed", "et")


@pytest.mark.parametrize(
    ("name", "names", "image", "seg", "values"),
    [
        ("brats", "2021", f"{CASE}/{CASE}_t1ce.nii.gz", f"{CASE}/{CASE}_seg.nii.gz", (0, 1, 2, 4)),
        ("brats", "2023", f"{CASE}/{CASE}-t1c.nii.gz", f"{CASE}/{CASE}-seg.nii.gz", (0, 1, 2, 3)),
        ("nnunet", "2021", f"imagesTr/{CASE}_0001.nii.gz", f"labelsTr/{CASE}.nii.gz", (0, 1, 2, 3)),
        ("bids", "2021", f"{SUBJECT}_ce-gadolinium_T1w.nii.gz", f"{SUBJECT}_desc-tumour_dseg.nii.gz", (0, 1, 2, 3)),
    ],
)
def test_names_and_label_values(name: str, names: str, image: str, seg: str, values: tuple[int, ...]) -> None:
    layout = make_layout(name, MODALITIES, LABELS, names)
    assert layout.path(7, "t1ce") == image
    assert layout.path(7, "seg") == seg
    label = np.arange(4, dtype=np.uint8)
    assert tuple(layout.file_labels(label)) == values
    assert np.array_equal(layout.array_labels(layout.file_labels(label)), label)


@given(sample=st.integers(0, 10**9), name=st.sampled_from(["brats", "nnunet", "bids", "dicom"]))
def test_every_path_tells_its_sample_and_no_two_are_alike(sample: int, name: str) -> None:
    layout = make_layout(name, MODALITIES, LABELS, slices=3, rtstruct=name == "dicom")
    paths = layout.paths(sample)
    assert len(set(paths.values())) == (14 if name == "dicom" else 5)
    assert {layout.sample_of(path) for path in paths.values()} == {sample}
    assert not set(paths.values()) & set(layout.paths(sample + 1).values())


@pytest.mark.parametrize(
    "path",
    [
        f"{CASE}/t1/{CASE}_t1_0000.dcm", f"{CASE}/t1/{CASE}_t1_0004.dcm", f"{CASE}/t1/{CASE}_t1.dcm",
        f"{CASE}/t1/{CASE}_t2_0001.dcm", f"{CASE}/t1/sbldm-000008_t1_0001.dcm", f"{CASE}/seg/{CASE}_seg_0001.dcm",
        f"{CASE}/t1/{CASE}_t1_00001.dcm", f"{CASE}/dwi/{CASE}_dwi_0001.dcm", f"{CASE}/t1/../t1/{CASE}_t1_0001.dcm",
        f"{CASE}/rtstruct/{CASE}_rtstruct.dcm",
    ],
)  # fmt: skip
def test_what_is_no_slice_of_a_series_belongs_to_no_sample(path: str) -> None:
    layout = make_layout("dicom", MODALITIES, LABELS, slices=3)
    assert layout.sample_of(f"{CASE}/t1/{CASE}_t1_0003.dcm") == 7
    assert layout.sample_of(path) is None


@pytest.mark.parametrize("name", ["nnunet", "bids", "dicom"])
@pytest.mark.parametrize("origin", ["", "from a real case", "given mask"])
def test_files_beside_the_samples_say_what_these_are_made_from(name: str, origin: str) -> None:
    facts = DatasetFacts((0,), "tiny", "0" * 64, "0", origin)
    written = make_layout(name, MODALITIES, LABELS).dataset_files(facts)
    text = b"".join(written.values()).decode()
    assert ("shows no patient" in text) is (origin == "")
    assert (f"{origin}, protect it as that" in text) is (origin != "")


def test_a_readme_tells_whose_scale_the_images_have() -> None:
    layout = make_layout("bids", MODALITIES, LABELS)
    for is_scan, told in ((False, b"are int16, 0..1000"), (True, b"scale of the scan")):
        facts = DatasetFacts((0,), "tiny", "0" * 64, "0", "from a real case", is_scan)
        assert told in layout.dataset_files(facts)["README"]


def test_one_tumour_class_is_written_as_one() -> None:
    assert make_layout("brats", ("t1",), ("background", "tumour")).label_values == (0, 1)


@pytest.mark.parametrize("name", ["dicomdir", "", "BRATS"])
def test_unknown_layouts_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="allowed: brats, nnunet, bids"):
        make_layout(name, MODALITIES, LABELS)


@pytest.fixture
def run(tiny_bundle: Bundle):
    def call(*arguments: object) -> int:
        fixed = ["generate", "--bundle", str(tiny_bundle.path), "--steps", "2", "--threads", "1", "--quiet"]
        return main([*fixed, *map(str, arguments)])

    return call


def test_nnunet_accepts_the_data_set(run, tmp_path: Path) -> None:
    out = tmp_path / "Dataset901_Synthetic"
    assert run("--count", 3, "--out", out, "--layout", "nnunet") == 0
    found = by_nnunet(
        "from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity\n"
        f"verify_dataset_integrity({str(out)!r}, 1)\n"
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert "most likely OK" in found.stdout
    assert "Error" not in found.stdout + found.stderr
    assert json.loads((out / "dataset.json").read_text())["numTraining"] == 3


def test_bids_validator_accepts_the_derivative(run, tmp_path: Path) -> None:
    validator = shutil.which("bids-validator-deno") or str(Path(sys.executable).with_name("bids-validator-deno"))
    out = tmp_path / "bids"
    assert run("--count", 2, "--out", out, "--layout", "bids", "--preview") == 0
    found = subprocess.run([validator, str(out), "--json"], capture_output=True, text=True, check=False)
    issues = json.loads(found.stdout)["issues"]["issues"]
    errors = [issue for issue in issues if issue["severity"] == "error"]
    assert not errors, errors
    described = json.loads((out / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative"
    assert described["GeneratedBy"][0]["Name"] == "sbldm-engine"


def test_brats_grid_and_names_of_2023(run, tmp_path: Path) -> None:
    out = tmp_path / "brats"
    assert run("--count", 1, "--out", out, "--grid", "brats", "--names", "2023") == 0
    image = nib.load(out / "sbldm-000000/sbldm-000000-t2f.nii.gz")
    assert image.shape == (240, 240, 155)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert image.affine.tolist() == [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert set(np.unique(np.asarray(nib.load(out / "sbldm-000000/sbldm-000000-seg.nii.gz").dataobj))) <= {0, 1, 2, 3}
