"""`generate --exclude-copies`: what is drawn again, what is recorded, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.copies import MIN_HONEST, CopyReference
from sbldm.engine.run.writer import COPY

from tests.support.tiny_cohort import write_small_cohort


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_cohort(tmp_path_factory.mktemp("cases"), MIN_HONEST)


def generate(bundle: Bundle, out: Path, *arguments: str) -> int:
    given = ["generate", "--bundle", str(bundle.path), "--steps", "2", "--threads", "1", "--count", "1", "--quiet"]
    return main([*given, "--out", str(out), *arguments])


def ledger(out: Path) -> dict[str, object]:
    return json.loads((out / "ledger.jsonl").read_text().splitlines()[-1])


def test_a_copy_is_drawn_again_and_the_cases_are_recorded(
    tiny_bundle: Bundle,
    cases: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    closeness = iter([1.2, 0.4])
    monkeypatch.setattr(CopyReference, "closeness", lambda self, image: next(closeness))
    assert generate(tiny_bundle, tmp_path / "run", "--exclude-copies", str(cases)) == 0
    assert ledger(tmp_path / "run")["attempt"] == 1
    recorded = json.loads((tmp_path / "run" / "run.json").read_text())["exclude_copies"]
    assert recorded["cases"] == MIN_HONEST
    assert str(cases) not in (tmp_path / "run" / "run.json").read_text()
    assert generate(tiny_bundle, tmp_path / "run", "--resume") == 2
    assert f"exclude-copies: the run has {MIN_HONEST} cases" in capsys.readouterr().err
    assert generate(tiny_bundle, tmp_path / "run", "--resume", "--exclude-copies", str(cases)) == 0


def test_a_sample_that_stays_a_copy_is_not_written(
    tiny_bundle: Bundle, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CopyReference, "closeness", lambda self, image: 2.0)
    out = tmp_path / "run"
    assert generate(tiny_bundle, out, "--exclude-copies", str(cases), "--attempts", "1") == 5
    line = ledger(out)
    assert (line["fault"], line["attempt"]) == (COPY, 1)
    assert not list(out.rglob("*.nii.gz"))


def test_too_few_cases_tell_nothing(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = write_small_cohort(tmp_path / "few", 2)
    assert generate(tiny_bundle, tmp_path / "run", "--exclude-copies", str(few)) == 3
    assert f"holds 2 cases; {MIN_HONEST} or more" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
