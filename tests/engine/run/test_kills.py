"""Random kills of whole runs, far more than networks would allow: every run ends in the same bytes."""

from __future__ import annotations

import multiprocessing
import random
import shutil
from pathlib import Path

import pytest
from sbldm.engine.bundle.load import Bundle

from tests.support.crash import snapshot
from tests.support.stub_runs import make_run, stub_plan

KILLS = 200
SAMPLES = 5


@pytest.mark.slow
def test_two_hundred_kills_end_in_identical_bytes(tiny_bundle: Bundle, tmp_path: Path) -> None:
    plan = stub_plan(tiny_bundle, SAMPLES)
    make_run(tiny_bundle, plan, tmp_path / "whole")
    expected, out = snapshot(tmp_path / "whole"), tmp_path / "out"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.stub_runs"])
    luck, kills, runs = random.Random(7), 0, 0
    while kills < KILLS:
        process = context.Process(target=make_run, args=(tiny_bundle, plan, out))
        process.start()
        process.join(luck.uniform(0.0, 0.3))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        if (out / "manifest.csv").exists():
            assert make_run(tiny_bundle, plan, out) == 0
            assert snapshot(out) == expected
            shutil.rmtree(out)
            runs += 1
    assert make_run(tiny_bundle, plan, out) == 0
    assert snapshot(out) == expected
    print(f"{kills} kills over {runs + 1} runs")
