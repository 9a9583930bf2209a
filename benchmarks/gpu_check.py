"""Proof on a GPU in one script: `python -m sbldm.benchmarks.gpu_check [--json FILE]`.

Every item runs in a process of its own, so that a crash spoils nothing else. What is missing is listed with the reason;
a machine without a GPU gets to the end. Exit code 0: nothing failed, 1: something did.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from .gpu_items import ITEMS, Options, Skip

_RESULT = "gpu_check result: "
_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "pycuda", "cuda-bindings", "torch", "tensorrt", "tensorrt-rtx")
_TIMEOUT_S = 1800


@dataclass(frozen=True)
class Result:
    """What became of an item."""

    item: str
    status: Literal["passed", "failed", "skipped"]
    reason: str  # why it was skipped or failed
    figures: dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Runs the items and prints a table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--gpu", type=int, default=0, help="index of the GPU")
    parser.add_argument("--bundle", help="name or path of a bundle; default: the shipped one")
    parser.add_argument("--count", type=int, default=256, help="volumes that to-disk writes")
    parser.add_argument("--item", choices=tuple(ITEMS), help="run one item in this process")
    given = parser.parse_args(arguments)
    options = Options(given.gpu, given.bundle, given.count)
    if given.item:
        return _run_here(given.item, options)
    results = [_run_apart(item, options) for item in ITEMS]
    _print_table(results)
    if given.json:
        given.json.write_text(json.dumps(_report(results), indent=2) + "\n")
    return int(any(result.status == "failed" for result in results))


def _run_here(item: str, options: Options) -> int:
    """Runs an item and prints its result as a line of JSON; what goes wrong is the process's traceback."""
    try:
        outcome: dict[str, Any] = {"figures": ITEMS[item](options)}
    except Skip as skip:
        outcome = {"skipped": str(skip)}
    print(_RESULT + json.dumps(outcome))
    return 0


def _run_apart(item: str, options: Options) -> Result:
    command = [sys.executable, "-m", "sbldm.benchmarks.gpu_check", "--item", item]
    command += ["--gpu", str(options.gpu), "--count", str(options.count)]
    command += ["--bundle", options.bundle] if options.bundle else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Result(item, "failed", f"not done after {_TIMEOUT_S} s", {})
    lines = [line for line in done.stdout.splitlines() if line.startswith(_RESULT)]
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines()
        return Result(item, "failed", said[-1] if said else f"the process ended with {done.returncode}", {})
    outcome = json.loads(lines[-1].removeprefix(_RESULT))
    if "skipped" in outcome:
        return Result(item, "skipped", outcome["skipped"], {})
    return Result(item, "passed", "", outcome["figures"])


def _print_table(results: list[Result]) -> None:
    width = max(len(result.item) for result in results)
    for result in results:
        figures = ", ".join(f"{name} {value}" for name, value in result.figures.items())
        print(f"{result.item:<{width}}  {result.status:<7}  {result.reason or figures}")
    counts = {status: sum(r.status == status for r in results) for status in ("passed", "failed", "skipped")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()))


def _report(results: list[Result]) -> dict[str, Any]:
    gpus = [str(r.figures["gpu"]) for r in results if "gpu" in r.figures]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "gpu": gpus[0] if gpus else None,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "results": [asdict(result) for result in results],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
