"""A long run, watched: what is noted of it, how it goes on, and whether it is flat."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sbldm.benchmarks import soak
from sbldm.benchmarks.flatness import growth
from sbldm.benchmarks.soak import Note, judge, main
from sbldm.engine.bundle.load import Bundle


def leg(values: np.ndarray, first: int = 0) -> list[tuple[int, float]]:
    return [(first + at, float(value)) for at, value in enumerate(values)]


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count)


def test_growth_is_found_with_an_interval_that_holds_it() -> None:
    samples = np.arange(400)
    flat = growth([leg(100 + noise(400))])
    assert flat is not None
    assert flat.low < 0 < flat.high
    assert (flat.verdict, flat.samples) == ("flat", 400)
    leaks = growth([leg(100 + 0.1 * samples + noise(400))])
    assert leaks is not None
    assert leaks.low < 39.9 < leaks.high
    assert leaks.verdict == "grows"
    faster = growth([leg(100 - 0.1 * samples + noise(400))])
    assert faster is not None
    assert faster.verdict == "flat"
    loud = growth([leg(100 + 200 * noise(400))])
    assert loud is not None
    assert loud.verdict == "undecided"


def test_the_interval_is_that_of_least_squares_on_blocks() -> None:
    from scipy import stats

    values = 50 + 0.02 * np.arange(203) + noise(203)
    found = growth([leg(values)])
    blocks = np.array(leg(values), float)[:200].reshape(20, 10, 2).mean(axis=1)
    fitted = stats.linregress(*blocks.T)
    half = stats.t.ppf(0.975, 18) * fitted.stderr
    assert found is not None
    assert (found.growth, found.high - found.growth) == pytest.approx((202 * fitted.slope, 202 * half))


def test_each_process_has_a_level_of_its_own() -> None:
    """One that begins higher is no leak; a leak in each is one."""
    steady = growth([leg(100 + noise(200)), leg(300 + noise(200, 1))])
    assert steady is not None
    assert steady.verdict == "flat"
    saw = growth([leg(100 + 0.2 * np.arange(200) + noise(200)), leg(100 + 0.2 * np.arange(200) + noise(200, 1))])
    assert saw is not None
    assert saw.growth == pytest.approx(40, abs=3)
    assert growth([leg(noise(4))]) is None
    assert growth([]) is None


def notes(mib: np.ndarray, seconds: np.ndarray, other: float = 0.0, cpu: float = 4.0) -> list[Note]:
    return [
        Note(0, at, float(s), cpu + 0.01 * float(s), float(m), other, failed=False)
        for at, (m, s) in enumerate(zip(mib, seconds, strict=True))
    ]


def test_a_soak_is_flat_in_memory_and_time_or_it_is_not() -> None:
    even, rising = 1 + 0.01 * noise(300), 1 + 0.002 * np.arange(300)
    good = judge(notes(700 * even, 2.5 * even), 20)
    assert (good["flat"], good["quiet_share"], good["time_is_judged_by"]) == (True, 1.0, "seconds")
    assert good["growth"]["mib"]["samples"] == 280
    assert not judge(notes(700 * rising, 2.5 * even), 20)["flat"]
    assert not judge(notes(700 * even, 2.5 * rising), 20)["flat"]
    failed = [dataclasses.replace(note, failed=note.sample == 7) for note in notes(700 * even, 2.5 * even)]
    assert not judge(failed, 20)["flat"]
    busy = judge(notes(700 * even, 2.5 * rising, other=0.8), 20)
    assert (busy["flat"], busy["time_is_judged_by"], busy["verdicts"]["seconds"]) == (True, "cpu_seconds", "undecided")
    warming = np.where(np.arange(300) < 20, 0.5, 1.0) * even
    assert judge(notes(700 * warming, 2.5 * even), 20)["flat"]


def test_a_soak_goes_on_where_it_was_ended_and_keeps_no_volumes(
    tiny_mask_first_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tiny_mask_first_bundle.path)
    asked = {"count": 3, "bundle": path, "backend": "onnxruntime", "workers": 1}
    first = Note(0, 1, 2.0, 4.0, 700.0, 0.0, failed=False)
    torn = json.dumps(dataclasses.asdict(first))[:30]
    lines = f"{json.dumps(asked)}\n{json.dumps(dataclasses.asdict(first))}\n{torn}"
    (tmp_path / soak.JOURNAL).write_text(lines)
    (tmp_path / "run" / "sbldm-000000").mkdir(parents=True)  # of the leg that was ended
    options = ["--out", str(tmp_path), "--bundle", path, "--backend", "onnxruntime", "--warm-up", "0"]
    assert main([*options, "--count", "3"]) == 1  # three samples show nothing
    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])
    assert (figures["samples"], figures["legs"], figures["failed"]) == (3, 2, 0), printed.err
    journal = [json.loads(line) for line in (tmp_path / soak.JOURNAL).read_text().splitlines()]
    assert journal[0] == asked
    assert [(note["leg"], note["sample"]) for note in journal[1:]] == [(0, 1), (1, 0), (1, 2)]
    assert all(note["mib"] > 50 and note["seconds"] > 0 for note in journal[1:])
    assert not [file for file in tmp_path.rglob("*") if file.name.endswith(".gz")]
    assert main([*options, "--count", "4"]) == 2
    assert "was begun with other options" in capsys.readouterr().err


def test_an_interrupted_soak_ends_its_run(
    tiny_mask_first_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[soak.subprocess.Popen[bytes]] = []
    start = soak.subprocess.Popen

    def popen(*given: object, **named: object) -> object:
        started.append(start(*given, **named))  # type: ignore[call-overload]
        return started[0]

    looks: list[None] = []

    def interrupt(_: object) -> Iterator[dict[str, object]]:
        looks.append(None)
        if len(looks) == 1:
            raise KeyboardInterrupt
        return iter(())

    monkeypatch.setattr(soak.subprocess, "Popen", popen)
    monkeypatch.setattr(soak.Tail, "new", interrupt)
    assert main(["--out", str(tmp_path / "soak"), "--bundle", str(tiny_mask_first_bundle.path)]) == 130
    assert started[0].returncode is not None
    assert "interrupted after 0 of 10000; the same command goes on" in capsys.readouterr().err


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    assert main(["--out", str(tmp_path)]) == 2
    assert "is no soak" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
