from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.scans.discover import discover_cases
from sbldm.engine.scans.labels import CAVITY, parse_labels
from sbldm.engine.scans.options import ReadOptions


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
    assert {modality: image.path.name for modality, image in case.images.items()} == {
        "t1": "A_001_t1.nii.gz",
        "t1ce": "A_001_t1ce.nii.gz",
        "t2": "A_001_t2.nii.gz",
        "flair": "A_001_flair.nii.gz",
    }
    assert case.meaning.values == {0: 0, 1: 1, 2: 2, 4: 3}


def test_brats_2023_names(tmp_path: Path) -> None:
    touch(tmp_path, *[f"BraTS-GLI-00000-000-{part}.nii.gz" for part in ("t1n", "t1c", "t2w", "t2f", "seg")])
    (case,) = discover_cases(tmp_path).cases
    assert case.name == "BraTS-GLI-00000-000"
    assert {modality: image.path.name[-10:-7] for modality, image in case.images.items()} == {
        "t1": "t1n",
        "t1ce": "t1c",
        "t2": "t2w",
        "flair": "t2f",
    }
    assert case.meaning.values == {0: 0, 1: 1, 2: 2, 3: 3, 4: CAVITY}


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
    assert {modality: image.path.name for modality, image in case.images.items()} == {
        "t1": "P1_0001.nii.gz",
        "t1ce": "P1_0002.nii.gz",
        "t2": "P1_0003.nii.gz",
        "flair": "P1_0000.nii.gz",
    }
    assert case.label is not None
    assert case.label.name == "P1.nii.gz"
    assert case.meaning.values == expected


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


def parts(separator: str, *spellings: str) -> list[str]:
    return [f"{separator}{spelling}.nii.gz" for spelling in spellings]


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (["UCSF-PDGM-0004" + e for e in parts("_", "T1", "T1c", "T2", "FLAIR", "tumor_segmentation")], {1, 2, 4}),
        (["UPENN-GBM-00002_11" + e for e in parts("_", "T1", "T1GD", "T2", "FLAIR", "segm")], {1, 2, 4}),
        (["Brats17_CBICA_AAB_1" + e for e in parts("_", "t1", "t1ce", "t2", "flair", "seg")], {1, 2, 4}),
        (["BraTS20_Training_001" + e for e in parts("_", "t1", "t1ce", "t2", "flair", "seg")], {1, 2, 4}),
        (["BraTS-GLI-02405-100" + e for e in parts("-", "t1n", "t1c", "t2w", "t2f", "seg")], {1, 2, 3, 4}),
        (["BraTS-MET-00001-000" + e for e in parts("-", "t1n", "t1c", "t2w", "t2f", "seg")], {1, 2, 3, 4}),
        (["sbldm-000000" + e for e in parts("-", "t1n", "t1c", "t2w", "t2f", "seg")], {1, 2, 3, 4}),
    ],
)
def test_public_data_sets_are_read_by_their_names(tmp_path: Path, names: list[str], values: set[int]) -> None:
    touch(tmp_path, *[f"folder/{name}" for name in names])
    found = discover_cases(tmp_path)
    (case,) = found.cases
    assert found.faults == {}
    assert [image.path.name for image in case.images.values()] == names[:4]
    assert case.meaning.values.keys() - {0} == values


def test_masks_of_brats_ped_need_a_word_of_the_user(tmp_path: Path) -> None:
    touch(tmp_path, *["BraTS-PED-00001-000" + e for e in parts("-", "t1n", "t1c", "t2w", "t2f", "seg")])
    assert "BraTS-PED" in discover_cases(tmp_path).faults["BraTS-PED-00001-000"][0]
    told = ReadOptions(labels=parse_labels("enhancing=1,necrosis=2,cyst=3,oedema=4"))
    found = discover_cases(tmp_path, options=told)
    assert found.faults == {}
    assert found.cases[0].meaning.values == {0: 0, 1: 3, 2: 1, 3: 1, 4: 2}


def test_upenn_masks_drawn_by_hand_come_before_automated_ones(tmp_path: Path) -> None:
    touch(tmp_path, "a/UPENN-GBM-00002_11_automated_approx_segm.nii.gz", "b/UPENN-GBM-00002_11_segm.nii.gz")
    found = discover_cases(tmp_path, ())
    assert found.faults == {}
    assert found.cases[0].label is not None
    assert found.cases[0].label.name == "UPENN-GBM-00002_11_segm.nii.gz"


def test_hidden_and_predicted_files_are_left_out_and_strangers_are_named(tmp_path: Path) -> None:
    touch(tmp_path, *["A" + e for e in parts("_", "t1", "t1ce", "t2", "flair", "seg")])
    touch(tmp_path, "._A_t1.nii.gz", ".hidden/A_t1.nii.gz", "A_pred_seg.nii.gz", "A_Segm.nii.gz")
    found = discover_cases(tmp_path)
    assert [case.name for case in found.cases] == ["A"]
    assert found.faults == {}
    assert "A_Segm.nii.gz (nearest: CASE_seg.nii.gz)" in found.notes[0]
    assert "A_pred_seg.nii.gz (a prediction)" in found.notes[0]
    (tmp_path / "A_seg.nii.gz").unlink()
    (fault,) = discover_cases(tmp_path).faults["A"]
    assert "missing segmentation" in fault
    assert "A_Segm.nii.gz" in fault


def test_only_strangers_are_listed_with_the_nearest_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "P/scan_T1CE.nii.gz.nii.gz", "P/tumor_mask.nii.gz")
    with pytest.raises(InvalidInputError, match=r"tumor_mask.nii.gz \(nearest: CASE_seg.nii.gz\)"):
        discover_cases(tmp_path)


@pytest.mark.parametrize("links", [["A/source"], ["A/source", "B/source"], ["A/source", "B/source", "back"]])
def test_each_real_folder_counts_once(tmp_path: Path, links: list[str]) -> None:
    for name in "AB":
        touch(tmp_path, *[f"{name}/{name}" + e for e in parts("_", "t1", "t1ce", "t2", "flair", "seg")])
    for link in links:
        (tmp_path / link).symlink_to("..")
    (tmp_path / "A" / "loop").symlink_to("loop")
    found = discover_cases(tmp_path)
    assert found.faults == {}
    assert [case.name for case in found.cases] == ["A", "B"]


def test_a_folder_that_cannot_be_opened_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "AB":
        touch(tmp_path, *[f"{name}/{name}" + e for e in parts("_", "t1", "t1ce", "t2", "flair", "seg")])
    real = os.scandir

    def refusing(path: str | os.PathLike[str]):
        if Path(path).name == "B":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = discover_cases(tmp_path)
    assert [case.name for case in found.cases] == ["A"]
    assert "cannot be opened (Permission denied)" in found.faults["B"][0]


def test_bids_with_sessions_masks_and_a_table_of_labels(tmp_path: Path) -> None:
    for session in ("1", "2"):
        stem = f"sub-01/ses-{session}/anat/sub-01_ses-{session}"
        touch(tmp_path, *[stem + e for e in parts("_", "T1w", "ce-GADOLINIUM_T1w", "T2w", "acq-3D_FLAIR")])
        touch(tmp_path, f"{stem}_desc-brain_mask.nii.gz", f"{stem}_dseg.nii.gz", f"{stem}_label-lesion_mask.nii.gz")
    (tmp_path / "dseg.tsv").write_text("index\tname\n0\tBackground\n1\tEdema\n2\tNecrosis\n3\tEnhancing tumor\n")
    found = discover_cases(tmp_path)
    assert found.faults == {}
    assert [case.name for case in found.cases] == ["sub-01_ses-1", "sub-01_ses-2"]
    assert found.cases[0].meaning.values == {0: 0, 1: 2, 2: 1, 3: 3}
    (tmp_path / "dseg.tsv").unlink()
    assert "--labels" in discover_cases(tmp_path).faults["sub-01_ses-1"][0]


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_the_declared_file_ending_decides_between_doubles(tmp_path: Path, ending: str) -> None:
    nnunet(tmp_path, {"background": 0, "tumor": 1})
    touch(tmp_path, *[f"imagesTr/P1_000{k}.nii" for k in range(4)], "labelsTr/P1.nii", "labelsTr/._P1.nii.gz")
    assert "is there 2 times" in discover_cases(tmp_path).faults["P1"][0]
    description = json.loads((tmp_path / "dataset.json").read_text()) | {"file_ending": ending}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    found = discover_cases(tmp_path)
    assert found.faults == {}
    (case,) = found.cases
    assert {image.path.name for image in case.images.values()} == {f"P1_000{k}{ending}" for k in range(4)}
    assert case.label is not None
    assert case.label.name == f"P1{ending}"


def test_the_list_of_cases_takes_the_place_of_the_folders(tmp_path: Path) -> None:
    nnunet(tmp_path, {"background": 0, "tumor": 1})
    touch(tmp_path, *[f"elsewhere/Q_{k}.nii.gz" for k in range(4)], "elsewhere/Q.nii.gz")
    listed = {"images": [f"elsewhere/Q_{k}.nii.gz" for k in range(4)], "label": "elsewhere/Q.nii.gz"}
    description = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(description | {"dataset": {"Q": listed}}))
    found = discover_cases(tmp_path)
    assert [case.name for case in found.cases] == ["Q"]
    assert found.cases[0].images["flair"].path.name == "Q_0.nii.gz"
    assert "not listed" in found.notes[0]
    (tmp_path / "elsewhere" / "Q_2.nii.gz").unlink()
    assert "listed in dataset.json, but not there" in discover_cases(tmp_path).faults["Q"][0]


def test_decathlon_files_hold_all_channels(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz", "imagesTr/._BRATS_001.nii.gz")
    description = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": [{"image": "./imagesTr/BRATS_001.nii.gz", "label": "./labelsTr/BRATS_001.nii.gz"}],
    }
    for content in (description, {k: v for k, v in description.items() if k != "training"}):
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        found = discover_cases(tmp_path)
        assert found.faults == {}
        (case,) = found.cases
        assert {m: image.channel for m, image in case.images.items()} == {"t1": 1, "t1ce": 2, "t2": 3, "flair": 0}
        assert case.meaning.values == {0: 0, 1: 2, 2: 1, 3: 3}
