"""The command line over data sets as people have them: `data check`, `conditions measure`, `augment`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sbldm.cli.main import main

from tests.support.scans import arrays, save, write_case, write_nnunet
from tests.support.schemas import held_to


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_case(tmp_path / "data", "A")
    write_case(tmp_path / "data", "B", sform=0, qform=0)
    return tmp_path / "data"


def test_a_line_a_case_and_exit_3_with_faults(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(data.rglob("*"))
    assert main(["data", "check", str(data)]) == 3
    told = capsys.readouterr()
    lines = told.out.splitlines()
    assert "BraTS 2012-2021" in lines[0]
    assert lines[1].startswith("A: ok: ncr ")
    assert lines[2] == "B: FAULT"
    assert len([line for line in lines if "no orientation" in line and "--orientation RAS" in line]) == 5
    assert "1 of 2 cases are faulty" in told.err
    assert main(["data", "check", str(data), "--orientation", "RAS"]) == 0
    assert sorted(data.rglob("*")) == before


def test_json_and_preview(data: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "sheet.png"
    assert main(["data", "check", str(data), "--json", "--preview", str(picture)]) == 3
    result = held_to("data-check", capsys.readouterr().out)
    assert [case["ok"] for case in result["cases"]] == [True, False]
    assert result["cases"][0]["field_of_view"]["centred_on"] == "scan"
    assert (result["faulty"], result["exit_code"]) == (1, 3)
    with Image.open(picture) as drawn:
        assert drawn.height > 200
        marks = np.asarray(drawn)
    assert (marks == (250, 204, 68)).all(axis=-1).any()
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", "--preview", str(data)]) == 3
    assert (tmp_path / "data-check.png").is_file()


@pytest.mark.parametrize(
    "arguments",
    [["--labels", "bone=1"], ["--cavity", "perhaps"], ["--orientation", "up"], ["--preview", "no/such/x.png"]],
)
def test_options_that_cannot_be_are_a_usage_error(data: Path, arguments: list[str]) -> None:
    assert main(["data", "check", str(data), *arguments]) == 2


def test_a_folder_without_cases_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path / "nowhere")]) == 3
    save(tmp_path / "scan_T1contrast.nii.gz", arrays()["t1"])
    assert main(["data", "check", str(tmp_path)]) == 3
    assert "not recognised: scan_T1contrast.nii.gz" in capsys.readouterr().err


def test_shares_by_the_labels_that_the_user_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_case(tmp_path, "BraTS-PED-00001-000", {"seg": arrays(numbers=(2, 3, 1))["seg"]}, separator="-")
    assert main(["conditions", "measure", str(tmp_path)]) == 3
    assert "BraTS-PED" in capsys.readouterr().err
    asked = ["conditions", "measure", str(tmp_path), "--labels", "enhancing=1,necrosis=2,oedema=3"]
    assert main(asked) == 0
    row = capsys.readouterr().out.splitlines()[1].split(",")
    seg = arrays()["seg"]
    expected = [np.count_nonzero(seg == n) / np.count_nonzero(seg) for n in (1, 2, 4)]
    assert [float(cell) for cell in row[-3:]] == pytest.approx(expected, rel=1e-5)


def test_augment_refuses_what_check_refuses(tmp_path: Path, tiny_bundle, capsys: pytest.CaptureFixture[str]) -> None:
    case = arrays()
    case["t1"] = np.maximum(case["t1"], 1)
    write_case(tmp_path, "A", case)
    out = tmp_path / "out"
    asked = ["augment", str(tmp_path / "A"), "--bundle", str(tiny_bundle.path), "--out", str(out), "--count", "1"]
    assert main(asked) == 3
    assert "background is not 0" in capsys.readouterr().err
    assert not out.exists()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["channel_names", "labels", "file_ending", "dataset", "training", "modality", "numTraining"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3))
def test_any_dataset_json_is_read_or_refused_by_file(
    tmp_path_factory: pytest.TempPathFactory, capsys, changes: dict[str, object]
) -> None:
    folder = tmp_path_factory.mktemp("d")
    labels = {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}
    write_nnunet(folder, **{"labels": labels, "images": False, **changes})  # type: ignore[arg-type]
    code = main(["conditions", "measure", str(folder)])
    told = capsys.readouterr()
    assert code in (0, 3)
    if code == 3 and "faulty cases" not in told.err:
        assert told.err.startswith(f"error: {folder}")


@pytest.mark.parametrize(
    "text", ["", "[1]", "{", '{"labels": ' + "[" * 100_000, '{"a": 1, "a": 2}', "\ufeff{}", "\x00"]
)
def test_a_dataset_json_that_is_no_object_is_refused(tmp_path: Path, text: str, capsys) -> None:
    write_nnunet(tmp_path, {"tumor": 1}, images=False)
    (tmp_path / "dataset.json").write_text(text)
    assert main(["conditions", "measure", str(tmp_path)]) == 3
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'dataset.json'}: ")
