"""`sbldm-engine phantom` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from sbldm.cli.main import main


def test_writes_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int, tuple[int, ...]]] = []
    monkeypatch.setattr(
        "sbldm.train.phantom.cohort.write_case",
        lambda out, seed, case, anatomies: made.append((seed, case, tuple(anatomies))),
    )
    out = tmp_path / "cohort"
    assert main(["phantom", "--count", "2", "--out", str(out), "--seed", "9", "--workers", "1"]) == 0
    assert made == [(9, 0, tuple(range(1, 18))), (9, 1, tuple(range(1, 18)))]
    assert capsys.readouterr() == (f"2 cases in {out}\n", "")


def test_held_out_anatomies_are_those_no_training_cohort_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        "sbldm.train.phantom.cohort.write_case", lambda out, seed, case, anatomies: made.append(tuple(anatomies))
    )
    assert main(["phantom", "--count", "1", "--out", str(tmp_path / "c"), "--held-out", "--workers", "1"]) == 0
    assert made == [(18, 19, 20)]


@pytest.mark.parametrize("count", ["0", "-4", "three"])
def test_a_count_that_is_none_is_a_usage_error(tmp_path: Path, count: str) -> None:
    assert main(["phantom", "--count", count, "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_a_directory_in_use_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    assert main(["phantom", "--count", "1", "--out", str(tmp_path)]) == 2
    assert "mine.txt" in capsys.readouterr().err


def test_an_interrupt_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(out: Path, seed: int, case: int, anatomies: tuple[int, ...]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sbldm.train.phantom.cohort.write_case", interrupted)
    assert main(["phantom", "--count", "2", "--out", str(tmp_path / "out"), "--workers", "1"]) == 130
    assert "interrupted" in capsys.readouterr().err
