"""Seconds a volume, resident memory and start-up of the README's command.

python -m sbldm.benchmarks.generate_speed [--count 4] [--backend onnxruntime] [--workers 2] [--repeats 3]

The command runs in a process of its own, with `count` volumes and with one a worker: the difference is the cost of a
volume without start-up. `--help` of the same command, after a first call that fills the import caches, is the start-up.
The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from ..engine.processor import cpu_name
from .machine import BUSY_CORES
from .process import ProcessRun, run_measured

EXAMPLE = Path(__file__).parents[1] / "examples" / "conditions.csv"


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 where the command fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4, help="volumes, 2 or more")
    parser.add_argument("--bundle", default="phantom")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    if not 1 <= given.workers < given.count or given.repeats < 1:
        parser.error("--workers must be 1 or more, --count more than that, --repeats 1 or more")
    figures = measure(given)
    for name, value in figures.items():
        print(f"{name}: {value}")
    print(json.dumps(figures))
    return 0


def measure(given: argparse.Namespace) -> dict[str, object]:
    """The figures by name; SystemExit with the command's own message where it fails."""
    options = ["--bundle", given.bundle, "--backend", given.backend, "--workers", str(given.workers)]
    if given.steps is not None:
        options += ["--steps", str(given.steps)]
    if EXAMPLE.is_file():
        options += ["--conditions", str(EXAMPLE)]
    run_measured(["generate", "--help"])
    many: list[ProcessRun] = []
    few: list[ProcessRun] = []
    startup: list[ProcessRun] = []
    with tempfile.TemporaryDirectory(prefix="sbldm-speed-") as folder:
        for repeat in range(given.repeats):
            for runs, count in ((many, given.count), (few, given.workers)):
                out = str(Path(folder) / f"{repeat}-{count}")
                runs.append(_checked(["generate", "--count", str(count), "--out", out, "--preview", *options]))
            startup.append(_checked(["generate", "--help"]))
    whole, least = (statistics.median(run.seconds for run in runs) for runs in (many, few))
    others = max(run.other_cores for run in [*many, *few, *startup])
    return {
        "cpu": cpu_name(),
        "count": given.count,
        "workers": given.workers,
        "seconds": round(whole, 3),
        "seconds_a_volume": round((whole - least) / (given.count - given.workers), 3),
        "seconds_of_one_a_worker": round(least, 3),
        "startup_seconds": round(statistics.median(run.seconds for run in startup), 3),
        "peak_mib": round(max(run.peak_bytes for run in many) / 2**20),
        "other_cores": round(others, 2),
        "busy": others > BUSY_CORES,
    }


def _checked(arguments: list[str]) -> ProcessRun:
    run = run_measured(arguments)
    if run.exit_code:
        raise SystemExit(f"sbldm-engine {' '.join(arguments)} ended with {run.exit_code}: {run.errors.strip()}")
    return run


if __name__ == "__main__":
    sys.exit(main())
