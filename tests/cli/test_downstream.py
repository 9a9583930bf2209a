"""`downstream`: real, synthetic and test cases of a few voxels, from folders to tables and plots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.train.downstream import run as downstream_run

from tests.support.scans import affine, arrays, as_sample, write_case
from tests.support.schemas import held_to
from tests.support.tiny_cohort import SMALL_SHAPE, SMALL_SPACING

Run = Callable[..., int]


def write_cases(folder: Path, first: int, count: int) -> Path:
    """Cases whose tumours lie elsewhere in each."""
    for number in range(first, first + count):
        place = (25.0 - 7 * number, -20.0 + 9 * number, 12.0 - 4 * number)
        write_case(folder, f"S{number}", arrays(SMALL_SHAPE, SMALL_SPACING, tumour=place),
                   affine(SMALL_SPACING, SMALL_SHAPE))  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("downstream")
    for name, first, count in (("real", 0, 3), ("synthetic", 3, 2), ("test", 5, 2)):
        write_cases(root / name, first, count)
    return root


@pytest.fixture
def run(folders: Path, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(downstream_run, "available_threads", lambda: 1)

    def call(*more: object, test: str = "test") -> int:
        sides = ("--real", folders / "real", "--synthetic", folders / "synthetic", "--test", folders / test)
        fixed = ("--bundle", tiny_bundle.path, "--cache", folders / "cache", "--workers", 1, "--steps", 2,
                 "--device", "cpu")  # fmt: skip
        return main(["downstream", *map(str, (*sides, *fixed, *more))])

    return call


def test_all_arms_are_trained_compared_and_drawn(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("--out", out, "--seeds", 2, "--real-cases", "2,3", "--quiet") == 0
    text = capsys.readouterr().out
    assert text.strip() == (out / "downstream.md").read_text().strip()
    figures = held_to("downstream", (out / "downstream.json").read_text())
    rows = {(r["arm"], r["real_cases"], r["metric"], r["region"]): r for r in figures["figures"]}
    arms = {(arm, n) for arm in ("real", "real+synthetic", "real+carvemix", "real+warped") for n in (2, 3)}
    assert {key[:2] for key in rows} == arms | {("synthetic", 0)}
    assert len(rows) == 9 * 2 * 5
    assert len(list((out / "trainings").glob("*.json"))) == 2 * 9
    one = rows["real+synthetic", 3, "dice", "wt"]
    assert one["low"] <= one["value"] <= one["high"]
    real = rows["real", 3, "dice", "wt"]
    assert one["minus_real"]["value"] == pytest.approx(one["value"] - real["value"])
    assert "minus_real" not in real
    assert {cost["trainings"] for cost in figures["cost"]} == {2}
    assert any("seeds" in warning for warning in figures["warnings"])
    for words in ("## Dice\n", "## HD95, mm", "## Cost of one training", "| real+carvemix | 2 |", "fewer than 3 seeds"):
        assert words in text
    assert {path.stem for path in out.glob("*.png")} >= {"dice", "differences", "curves"}


def test_a_comparison_goes_on_where_it_was_stopped(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, made = tmp_path / "out", []
    usual = downstream_run._made

    def third_is_killed(comparison, training, *rest):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(training)
        return usual(comparison, training, *rest)

    asked = ("--out", out, "--seeds", 2, "--arms", "real,synthetic", "--quiet", "--json")
    monkeypatch.setattr(downstream_run, "_made", third_is_killed)
    assert run(*asked) == 130
    kept = {path: path.read_bytes() for path in (out / "trainings").iterdir()}
    assert len(kept) == 2
    assert not (out / "downstream.json").exists()
    monkeypatch.setattr(downstream_run, "_made", usual)
    assert run(*asked) == 0
    assert {path: path.read_bytes() for path in kept} == kept
    assert len(list((out / "trainings").iterdir())) == 4
    monkeypatch.setattr(downstream_run, "_made", third_is_killed)  # nothing is trained again
    assert run(*asked) == 0
    assert run(*asked, "--steps", 3) == 130  # but what is another training


def test_the_same_training_has_the_same_scores(run: Run, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        assert run("--out", tmp_path / name, "--seeds", 1, "--arms", "real+synthetic,real+carvemix", "--quiet") == 0
        found.append([json.loads(p.read_text())["scores"] for p in sorted((tmp_path / name / "trainings").iterdir())])
    assert found[0] == found[1]


@pytest.mark.parametrize("side", ["real", "synthetic"])
def test_test_cases_that_are_in_training_are_refused_whatever_they_are_called(
    run: Run, folders: Path, tmp_path: Path, side: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = folders / f"mixed-{side}"
    write_cases(mixed, 6, 1)
    (source,) = sorted((folders / side).iterdir())[:1]
    for file in source.iterdir():
        part = file.name.removeprefix(source.name)
        (mixed / "other").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, mixed / "other" / f"other{part}")
    assert run("--out", tmp_path / "out", "--quiet", test=mixed.name) == 3
    told = capsys.readouterr().err
    assert f"other of --test is {source.name} of --{side}" in told
    assert "S6" not in told
    assert not (tmp_path / "out" / "trainings").exists()


@pytest.mark.parametrize("side", ["real", "test"])
def test_samples_are_neither_real_nor_test_cases(
    run: Run, folders: Path, tmp_path: Path, side: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = folders / f"samples-{side}"
    write_cases(mixed, 7, 2)
    as_sample(mixed / "S8")
    asked = ("--out", tmp_path / "out", "--quiet", f"--{side}", mixed)  # a later option counts
    assert run(*asked) == 3
    told = capsys.readouterr().err
    assert f"{mixed}: 1 case cannot be used\n  S8: was made by sbldm-engine" in told
    assert not (tmp_path / "out" / "trainings").exists()


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--trainer", "vnet"), 2, "allowed slices"),
        (("--arms", "real,gan"), 2, "--arms real,gan: allowed real, real+synthetic"),
        (("--real-cases", "2,9"), 2, "must be 1 to 3"),
        (("--real-cases", "half"), 2, "must be numbers"),
        (("--device", "cuda:7"), 2, "--device cuda:7"),
        (("--quick", "--trainer", "monai"), 2, "--quick"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    run: Run, tmp_path: Path, more: tuple[str, ...], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--out", tmp_path / "out", "--quiet", *more) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "trainings").exists()


def test_synthetic_cases_that_are_real_ones_are_told_in_the_report(run: Run, folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("--synthetic", folders / "real", "--out", out, "--seeds", 1, "--arms", "synthetic", "--quiet") == 0
    told = "--synthetic: 3 cases with the images of a case of --real, such as S0, of S0"
    assert told in json.loads((out / "downstream.json").read_text())["warnings"]
    assert f"**{told}**" in (out / "downstream.md").read_text()


def test_pictures_of_others_are_not_overwritten(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "curves.png").write_bytes(b"mine")
    assert run("--out", tmp_path, "--quiet") == 2
    assert "holds 'curves.png' and no downstream.json" in capsys.readouterr().err
    assert (tmp_path / "curves.png").read_bytes() == b"mine"


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["monai", "nnunet"])
def test_other_segmenters_train_and_find(
    run: Run, tmp_path: Path, trainer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip({"monai": "monai", "nnunet": "nnunetv2"}[trainer])
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    out = tmp_path / "out"
    assert run("--out", out, "--seeds", 1, "--arms", "real+synthetic", "--trainer", trainer, "--quiet") == 0
    (kept,) = (out / "trainings").iterdir()
    record = json.loads(kept.read_text())
    assert record["trained_on"] == 5
    assert [len(values) for values in record["scores"]["dice"].values()] == [2] * 5
    assert not list((out / "scratch").glob("*"))


def test_nnunet_trains_whole_epochs(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--out", tmp_path / "out", "--trainer", "nnunet", "--steps", 300, "--quiet") == 2
    assert "epochs of 250 steps" in capsys.readouterr().err
