"""Random kills of whole runs and of single workers: every run ends in the same bytes.

SBLDM_KILLS sets how many runs and how many workers are killed; docs/safety.md tells of 200, which take minutes.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle

from tests.support.commands import child, command, hashes, worker_processes
from tests.support.crash import snapshot
from tests.support.stub_runs import make_run, stub_plan

KILLS = int(os.environ.get("SBLDM_KILLS", "24"))
SAMPLES = 5
WORKER_KILLS = int(os.environ.get("SBLDM_KILLS", "4"))


@pytest.mark.slow
def test_kills_of_runs_end_in_identical_bytes(tiny_bundle: Bundle, tmp_path: Path) -> None:
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


@pytest.mark.slow
@pytest.mark.timeout(3600 if "SBLDM_KILLS" in os.environ else 600)
def test_kills_of_workers_and_now_and_then_of_the_run_end_in_identical_bytes(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """A run whose samples were given up, because their workers were killed twice, ends with 5 and is gone on with."""
    asked, out = ("--count", 60, "--steps", 2, "--seed", 3), tmp_path / "out"
    assert main(command(tiny_bundle, tmp_path / "whole", *asked)) == 0
    expected = hashes(tmp_path / "whole")
    luck, ended, killed = random.Random(13), Counter[int | None](), Counter[str]()
    while killed.total() < WORKER_KILLS or ended[0] == 0:
        with child(command(tiny_bundle, out, *asked, "--workers", 2, "--resume")) as process:
            while process.is_alive():
                if luck.random() < 0.7:
                    _await_another_sample(out / "ledger.jsonl", process)
                process.join(luck.uniform(0.0, 1.0))
                if killed.total() < WORKER_KILLS:
                    killed.update(_kill_one(process, luck))
        ended[process.exitcode] += 1
        assert process.exitcode in (0, 5, -9)
        if process.exitcode == 0:
            assert hashes(out) == expected
            shutil.rmtree(out)
    print(f"{killed['worker']} kills of workers and {killed['run']} of runs; exit codes of the runs: {dict(ended)}")


def _await_another_sample(ledger: Path, run: multiprocessing.Process) -> None:
    """Most kills are to hit workers that make samples, not workers that load a model."""
    before = ledger.stat().st_size if ledger.exists() else 0
    while run.is_alive() and (ledger.stat().st_size if ledger.exists() else 0) <= before:
        time.sleep(0.01)


def _kill_one(run: multiprocessing.Process, luck: random.Random) -> list[str]:
    """Kill one of the workers, or one time in ten the run itself; which it was, nothing where there was nobody."""
    workers = worker_processes(run.pid)
    if luck.random() < 0.1 and run.is_alive():
        run.kill()
        return ["run"]
    if not workers:
        return []
    with suppress(psutil.NoSuchProcess):
        luck.choice(workers).kill()
        return ["worker"]
    return []
