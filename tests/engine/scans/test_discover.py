from __future__ import annotations

import json
from pathlib import Path

import pytest
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.scans.discover import discover_cases


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_brats_2021_names_at_any_depth_and_uncompressed(tmp_path: Path) -> None:
    touch(tmp_path, *[f"deep/A_001/A_001_{part}.nii.gz" for part in ("t1", "t1ce", "t2", "flair", "seg")])
    touch(tmp_path, *[f"B_{part}.nii" for part in ("t1", "t1ce", "t2", "flair", "seg")])
    found = discover_cases(tmp_path)
    assert [case.name for case in found.cases] == ["A_001", "B"]
    assert found.faults == {}
    case = found.cases[0]
    assert {modality: path.name for modality, path in case.images.items()} == {
        "t1": "A_001_t1.nii.gz",
        "t1ce": "A_001_t1ce.nii.gz",
        "t2": "A_001_t2.nii.gz",
        "flair": "A_001_flair.nii.gz",
    }
    assert case.label_values == {0: 0, 1: 1, 2: 2, 4: 3}


def test_brats_2023_names(tmp_path: Path) -> None:
    touch(tmp_path, *[f"BraTS-GLI-00000-000-{part}.nii.gz" for part in ("t1n", "t1c", "t2w", "t2f", "seg")])
    (case,) = discover_cases(tmp_path).cases
    assert case.name == "BraTS-GLI-00000-000"
    assert {modality: path.name[-10:-7] for modality, path in case.images.items()} == {
        "t1": "t1n",
        "t1ce": "t1c",
        "t2": "t2w",
        "flair": "t2f",
    }
    assert case.label_values == {0: 0, 1: 1, 2: 2, 3: 3}


def nnunet(folder: Path, labels: dict[str, object], channels: dict[str, str] | None = None) -> None:
    channels = channels or {"0": "T2-FLAIR", "1": "T1w", "2": "T1-Gd", "3": "T2w"}
    touch(folder, *[f"imagesTr/P1_{int(number):04d}.nii.gz" for number in channels], "labelsTr/P1.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"channel_names": channels, "labels": labels}))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3}, {0: 0, 1: 2, 2: 1, 3: 3}),
        ({"background": 0, "NCR": 1, "ED": 2, "ET": 3}, {0: 0, 1: 1, 2: 2, 3: 3}),
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}, {0: 0, 1: 2, 2: 1, 3: 3}),
        ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}, {0: 0, 1: 2, 2: 1, 3: 3}),
        ({"0": "background", "1": "edema", "2": "necrosis", "3": "enhancing"}, {0: 0, 1: 2, 2: 1, 3: 3}),
        ({"background": 0, "tumor": 1}, {0: 0, 1: 1}),
    ],
)
def test_nnunet_channels_and_labels_go_by_their_names(
    tmp_path: Path, labels: dict[str, object], expected: dict[int, int]
) -> None:
    nnunet(tmp_path, labels)
    (case,) = discover_cases(tmp_path).cases
    assert {modality: path.name for modality, path in case.images.items()} == {
        "t1": "P1_0001.nii.gz",
        "t1ce": "P1_0002.nii.gz",
        "t2": "P1_0003.nii.gz",
        "flair": "P1_0000.nii.gz",
    }
    assert case.label is not None
    assert case.label.name == "P1.nii.gz"
    assert case.label_values == expected


def test_nnunet_labels_that_say_nothing_are_refused(tmp_path: Path) -> None:
    nnunet(tmp_path, {"background": 0, "a": 1, "b": 2})
    with pytest.raises(InvalidInputError, match="which label is which tissue"):
        discover_cases(tmp_path)


def test_nnunet_channels_that_say_nothing_are_refused(tmp_path: Path) -> None:
    nnunet(tmp_path, {"background": 0, "tumour": 1}, channels={"0": "CT"})
    with pytest.raises(InvalidInputError, match="no channel is named"):
        discover_cases(tmp_path)


def test_missing_and_doubled_files_are_faults_of_their_case(tmp_path: Path) -> None:
    touch(tmp_path, "A_t1.nii.gz", "A_t1ce.nii.gz", "A_flair.nii.gz")
    touch(tmp_path, *[f"B_{part}.nii.gz" for part in ("t1", "t1ce", "t2", "flair", "seg")], "again/B_t1.nii")
    found = discover_cases(tmp_path)
    assert found.faults["A"] == ["missing modality t2 (there: t1, t1ce, flair)", "missing segmentation"]
    assert found.faults["B"] == ["t1 is there 2 times: B_t1.nii.gz, again/B_t1.nii"]


def test_fewer_modalities_may_be_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "A_flair.nii.gz", "A_seg.nii.gz")
    assert discover_cases(tmp_path, ["flair"]).faults == {}
    with pytest.raises(InvalidInputError, match="unknown modality pet"):
        discover_cases(tmp_path, ["pet"])


def test_folders_without_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not a directory"):
        discover_cases(tmp_path / "absent")
    touch(tmp_path, "notes.txt")
    with pytest.raises(InvalidInputError, match="no case found"):
        discover_cases(tmp_path)
