from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.output.nifti import nifti_bytes, read_nifti
from sbldm.engine.run.nnunet_split import _with_synthetic, nnunet_folds

CASES = [f"BraTS_{k:03d}" for k in range(12)]


@pytest.fixture
def real(tmp_path: Path, tiny_bundle: Bundle) -> Path:
    """An nnU-Net raw data set of twelve "real" cases."""
    root = tmp_path / "Dataset500_Real"
    grid = tiny_bundle.manifest.grid
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for case in CASES:
        for channel in range(4):
            (root / f"imagesTr/{case}_{channel:04d}.nii.gz").write_bytes(
                nifti_bytes(np.ones(grid.shape, np.int16), grid.affine, "")
            )
        (root / f"labelsTr/{case}.nii.gz").write_bytes(nifti_bytes(np.ones(grid.shape, np.uint8), grid.affine, ""))
    channels = dict(zip("0123", ("T1", "T1CE", "T2", "FLAIR"), strict=True))
    labels = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
    described = {"channel_names": channels, "labels": labels, "numTraining": 12, "file_ending": ".nii.gz", "extra": 1}
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def generate(bundle: Bundle, out: Path, *arguments: object) -> int:
    fixed = ["generate", "--bundle", str(bundle.path), "--steps", "1", "--threads", "1", "--quiet", "--count", "3"]
    return main([*fixed, "--layout", "nnunet", "--out", str(out), *map(str, arguments)])


def test_folds_are_those_of_nnunet() -> None:
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    for number in (5, 12, 13, 57):
        cases = sorted(f"case_{k}" for k in range(number))
        theirs = [
            {key: [str(c) for c in fold[key]] for key in ("train", "val")} for fold in generate_crossval_split(cases)
        ]
        assert nnunet_folds(cases[::-1]) == theirs


def test_synthetic_cases_train_and_never_validate(tiny_bundle, tmp_path, real, monkeypatch) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    for _ in range(2):  # the second time changes nothing
        assert generate(tiny_bundle, tmp_path / "out", "--add-to", real, "--resume") == 0
        folds = json.loads((tmp_path / "preprocessed/Dataset500_Real/splits_final.json").read_text())
        expected = nnunet_folds(CASES)
        synthetic = [f"sbldm-{k:06d}" for k in range(3)]
        assert [fold["val"] for fold in folds] == [fold["val"] for fold in expected]
        assert [fold["train"] for fold in folds] == [[*fold["train"], *synthetic] for fold in expected]
        described = json.loads((real / "dataset.json").read_text())
        assert (described["numTraining"], described["extra"]) == (15, 1)
        assert len(list((real / "imagesTr").iterdir())) == 60


def test_folds_that_are_there_are_kept_and_checked(tiny_bundle, tmp_path, real, capsys) -> None:
    own = tmp_path / "splits_final.json"
    own.write_text(json.dumps([{"train": CASES[:6], "val": CASES[6:]}]))
    assert generate(tiny_bundle, tmp_path / "out") == 0
    merge = [
        "merge",
        str(tmp_path / "out"),
        "--out",
        str(tmp_path / "out"),
        "--add-to",
        str(real),
        "--splits",
        str(own),
    ]
    assert main(merge) == 0
    (fold,) = json.loads(own.read_text())
    assert fold["val"] == CASES[6:]
    assert fold["train"] == [*CASES[:6], "sbldm-000000", "sbldm-000001", "sbldm-000002"]
    own.write_text(json.dumps([{"train": CASES, "val": ["sbldm-000001"]}]))
    assert main(merge) == 3
    assert "validates on the synthetic case" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_before_a_file_is_added(tiny_bundle, tmp_path, real, capsys) -> None:
    assert generate(tiny_bundle, tmp_path / "bad", "--add-to", real, "--samples", "0") == 2
    assert generate(tiny_bundle, tmp_path / "bad", "--splits", real) == 2
    described = json.loads((real / "dataset.json").read_text())
    unknown = {"background": 0, "a": 1, "b": 2, "c": 3}
    (real / "dataset.json").write_text(json.dumps({**described, "labels": unknown}))
    assert generate(tiny_bundle, tmp_path / "out", "--add-to", real) == 2
    assert "which label is which tissue" in capsys.readouterr().err
    (real / "dataset.json").unlink()
    assert generate(tiny_bundle, tmp_path / "out", "--add-to", real, "--resume") == 3
    assert len(list((real / "imagesTr").iterdir())) == 48
    assert not (real / "splits_final.json").exists()


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "edema": 1, "necrosis": 2, "enhancing tumor": 3},
        {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
    ],
)
def test_masks_get_the_numbers_of_the_data_set(tiny_bundle, tmp_path, real, labels: dict[str, object]) -> None:
    described = json.loads((real / "dataset.json").read_text())
    (real / "dataset.json").write_text(json.dumps({**described, "labels": labels}))
    assert generate(tiny_bundle, tmp_path / "out", "--add-to", real) == 0
    assert generate(tiny_bundle, tmp_path / "out", "--add-to", real, "--resume") == 0
    for sample in range(3):
        name = f"labelsTr/sbldm-{sample:06d}.nii.gz"
        ours, theirs = (read_nifti(folder / name)[0] for folder in (tmp_path / "out", real))
        assert np.array_equal(np.array([0, 2, 1, 3])[ours.astype(int)], theirs)
        assert (theirs > 0).any()


def test_the_list_of_cases_is_extended(tiny_bundle, tmp_path, real) -> None:
    described = json.loads((real / "dataset.json").read_text())
    listed = {
        case: {"images": [f"imagesTr/{case}_{k:04d}.nii.gz" for k in range(4)], "label": f"labelsTr/{case}.nii.gz"}
        for case in CASES[:8]
    }
    (real / "dataset.json").write_text(json.dumps({**described, "dataset": listed}))
    for _ in range(2):
        assert generate(tiny_bundle, tmp_path / "out", "--add-to", real, "--resume") == 0
        described = json.loads((real / "dataset.json").read_text())
        folds = json.loads((real / "splits_final.json").read_text())
        in_folds = {case for fold in folds for case in fold["train"] + fold["val"]}
        assert set(described["dataset"]) == in_folds == {*CASES[:8], *(f"sbldm-{k:06d}" for k in range(3))}
        assert described["numTraining"] == 11
        added = described["dataset"]["sbldm-000002"]
        assert all((real / path).is_file() for path in [*added["images"], added["label"]])


def test_a_case_around_the_mask_of_a_real_one_is_in_no_fold_that_validates_it() -> None:
    folds = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c", "sbldm-1"], "val": ["a", "b"]}]
    made = _with_synthetic(folds, {"sbldm-1": None, "sbldm-2": "a", "sbldm-3": "c"})
    assert [fold["train"] for fold in made] == [["a", "b", "sbldm-1", "sbldm-2"], ["c", "sbldm-1", "sbldm-3"]]
