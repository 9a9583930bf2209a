"""Synthetic cases beside a data set of nnU-Net: what does not fit is told before the first one is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.output.nifti import nifti_bytes
from sbldm.engine.run.description import read_description
from sbldm.engine.run.nnunet_split import Addition
from scipy import ndimage

from tests.support.nnunet import by_nnunet

CASES = [f"BraTS_{k:03d}" for k in range(6)]
SHAPE, AFFINE = (40, 44, 32), np.array([[-5.0, 0, 0, 100], [0, -5.0, 0, 120], [0, 0, 5.0, -70], [0, 0, 0, 1]])
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]}


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Six cases as nnU-Net's conversion of BraTS 2021 makes them: regions, oedema 1, necrosis 2; 5 mm voxels, LPS."""
    root = tmp_path / "Dataset137_BraTS2021"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    noise = np.random.default_rng(0)
    for case in CASES:
        for channel in range(4):
            image = np.zeros(SHAPE, np.int16)
            image[6:34, 6:38, 4:28] = noise.integers(100, 900, (28, 32, 24))
            (root / f"imagesTr/{case}_{channel:04d}.nii.gz").write_bytes(nifti_bytes(image, AFFINE, ""))
        label = np.zeros(SHAPE, np.uint8)
        label[10:20, 10:20, 8:16], label[12:18, 12:18, 10:14], label[14:16, 14:16, 11:13] = 1, 3, 2
        (root / f"labelsTr/{case}.nii.gz").write_bytes(nifti_bytes(label, AFFINE, ""))
    described = {
        "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"},
        "labels": REGIONS,
        "regions_class_order": [1, 2, 3],
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root


@pytest.fixture
def run(tiny_bundle: Bundle, tmp_path: Path) -> Callable[..., int]:
    fixed = ["generate", "--bundle", str(tiny_bundle.path), "--steps", "1", "--threads", "1", "--quiet", "--count", "2"]
    return lambda *more: main([*fixed, "--layout", "nnunet", "--out", str(tmp_path / "out"), *map(str, more)])


def describe(dataset: Path, **changed: object) -> None:
    path = dataset / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_cases_get_the_voxels_of_the_data_set(run, real: Path, tmp_path: Path) -> None:
    assert run("--add-to", real) == 0
    recorded = read_description(tmp_path / "out")
    assert recorded.options.grid == "dataset"
    for name in ("labelsTr/sbldm-000001.nii.gz", "imagesTr/sbldm-000001_0003.nii.gz"):
        ours, theirs = nib.load(real / name), nib.load(real / "labelsTr/BraTS_000.nii.gz")
        assert ours.shape == theirs.shape
        assert np.array_equal(ours.affine, theirs.affine)
    assert main(["verify", str(tmp_path / "out")]) == 0
    assert run("--add-to", real, "--resume") == 0
    describe(real, numTraining=8)
    assert run("--resume") == 2


def test_a_grid_that_was_asked_for_is_kept(run, real: Path) -> None:
    assert run("--add-to", real, "--grid", "native") == 0
    assert nib.load(real / "labelsTr/sbldm-000000.nii.gz").shape == (16, 16, 8)


def test_channels_go_by_name_and_those_the_data_set_lacks_stay_out(run, real: Path, tmp_path: Path) -> None:
    for path in real.glob("imagesTr/*_000[23].nii.gz"):
        path.unlink()
    describe(real, channel_names={"0": "FLAIR", "1": "T1w"})
    assert run("--add-to", real) == 0
    added = sorted(path.name for path in (real / "imagesTr").glob("sbldm-000000*"))
    assert added == ["sbldm-000000_0000.nii.gz", "sbldm-000000_0001.nii.gz"]
    for theirs, ours in (("0000", "0003"), ("0001", "0000")):
        made = tmp_path / "out" / "imagesTr" / f"sbldm-000000_{ours}.nii.gz"
        assert (real / "imagesTr" / f"sbldm-000000_{theirs}.nii.gz").read_bytes() == made.read_bytes()


def _of_another_run(real: Path) -> None:
    (real / "labelsTr/sbldm-000001.nii.gz").write_bytes(b"other")


def _leaked(real: Path) -> None:
    (real / "splits_final.json").write_text(json.dumps([{"train": CASES, "val": ["sbldm-000000"]}]))


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (lambda real: describe(real, labels={"background": 0, "a": 1, "b": 2}), 2, "which label is which tissue"),
        (lambda real: describe(real, labels={"background": 0, "liver": 1}), 2, "'liver' is the one label, and no name"),
        (lambda real: describe(real, channel_names={"0": "T1", "1": "CT"}), 2, "1 is 'CT'; synthetic cases have t1, "),
        (lambda real: describe(real, file_ending=".nii"), 2, "file_ending is '.nii'"),
        (lambda real: (real / "labelsTr/BraTS_000.nii.gz").write_bytes(b"x"), 3, "BraTS_000.nii.gz: not a readable"),
        (lambda real: [p.unlink() for p in real.glob("labelsTr/BraTS_00[0-3]*")], 2, "5 folds need at least 5"),
        (_of_another_run, 2, "sbldm-000001.nii.gz: is a case of another run; --name-by id"),
        (_leaked, 3, "validates on the synthetic case sbldm-000000"),
        (lambda real: (real / "dataset.json").unlink(), 3, "dataset.json: cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_sample_is_made(
    run, real: Path, tmp_path: Path, capsys, spoil, code, message
) -> None:
    spoil(real)
    before = sorted(real.rglob("*"))
    assert run("--add-to", real) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert sorted(real.rglob("*")) == before


def test_folds_that_nnunet_will_not_read_are_told(run, real: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    assert run("--add-to", real) == 0
    assert "nnU-Net reads folds in $nnUNet_preprocessed/Dataset137_BraTS2021 alone" in capsys.readouterr().err
    elsewhere = Addition(1, real, tmp_path / "splits_final.json", augmented=True)
    assert [note.partition(":")[0] for note in elsewhere.notes()] == ["the cases are made from a real one (augment)"]


CHECK = """
from nnunetv2.experiment_planning import plan_and_preprocess_api as api
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
class OfFewVoxels(DatasetFingerprintExtractor):
    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.num_foreground_voxels_for_intensitystats = 1e5  # not 100 million drawn from scans of 56,000

verify_dataset_integrity({real!r}, 1)
api.extract_fingerprint_dataset(137, OfFewVoxels, num_processes=1)
api.plan_experiment_dataset(137)
api.preprocess_dataset(137, configurations=("3d_fullres",), num_processes=(1,))
"""


@pytest.mark.slow
def test_nnunet_itself_takes_the_result(run, real: Path, tmp_path: Path, monkeypatch) -> None:
    """Its integrity check, its preprocessing; what it crops to is the box of the brain."""
    pytest.importorskip("nnunetv2")
    folders = {name: str(tmp_path / name) for name in ("nnUNet_preprocessed", "nnUNet_results")} | {
        "nnUNet_raw": str(tmp_path)
    }
    for name, value in folders.items():
        monkeypatch.setenv(name, value)
    assert run("--add-to", real) == 0
    found = by_nnunet(CHECK.format(real=str(real)), **folders)
    assert found.returncode == 0, found.stderr[-3000:]
    assert "most likely OK" in found.stdout
    prepared = tmp_path / "nnUNet_preprocessed/Dataset137_BraTS2021"
    folds = json.loads((prepared / "splits_final.json").read_text())
    assert not any(case.startswith("sbldm-") for fold in folds for case in fold["val"])
    import pickle

    for case in ("sbldm-000000", "sbldm-000001"):
        properties = pickle.loads(next(prepared.glob(f"nnUNetPlans_3d_fullres/{case}.pkl")).read_bytes())
        images = [np.asarray(nib.load(real / f"imagesTr/{case}_{k:04d}.nii.gz").dataobj) for k in range(4)]
        brain = np.any(np.stack(images) > 0, axis=0)
        _, pieces = ndimage.label(brain)
        corners = [image[x, y, z] for image in images for x in (0, -1) for y in (0, -1) for z in (0, -1)]
        assert not any(corners)
        box = ndimage.find_objects(brain.astype(np.uint8))[0]
        theirs = properties["bbox_used_for_cropping"][::-1]  # nnU-Net counts z, y, x
        assert [[part.start, part.stop] for part in box] == [list(map(int, part)) for part in theirs]
        assert pieces == 1
