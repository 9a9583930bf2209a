"""Acceptance test of a GPU: `python -m sbldm.benchmarks.gpu_check [--json FILE]`, eight minutes at most.

First what decides: kernels against their references; each backend in each precision against the CPU engine on the same
noise, by the code that `generate` runs; compute-sanitizer. Then, in the time that is left, what is measured. Every item
runs in a process of its own, so that a crash spoils nothing else, and the JSON is written anew after each.

Exit code 0: every proof that this machine can make passed, ONNX Runtime on a GPU among them. 1: something failed, or
there was no time for a proof. 4: nothing failed, but no backend was proven on a GPU here. With `--items` it speaks of
those items alone, and the JSON does not say `passed`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ..engine.bundle.load import Bundle, load_bundle
from ..engine.errors import BackendUnavailableError
from .gpu_items import TOLD, Options, Skip, measurements, proofs, tell
from .gpu_proof import Failed

MINUTES = 8.0
NEEDED = "proof-onnxruntime-"  # how an item begins without which nothing is proven
_LOG = 4000  # characters that are kept of what a failed item said
_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "pycuda", "cuda-bindings", "torch", "tensorrt", "tensorrt-rtx")

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Result:
    """What became of an item."""

    item: str
    status: Status
    reason: str  # why it was skipped or failed
    figures: dict[str, Any]
    seconds: float
    decides: bool  # a proof, not a measurement
    log: str = ""  # the end of what a failed one's process said


def main(arguments: list[str] | None = None) -> int:
    """Runs the items and prints a table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--gpu", type=int, default=0, help="index of the GPU")
    parser.add_argument("--bundle", help="name or path of a bundle; default: the shipped one")
    parser.add_argument("--count", type=int, default=256, help="volumes that to-disk writes")
    parser.add_argument("--steps", type=int, help="of the samples that are compared; default: the bundle's")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which nothing new is begun")
    parser.add_argument("--items", type=lambda text: text.split(","), help="only these, in this order: a,b,...")
    parser.add_argument("--jobs", type=int, default=1, help="proofs at a time; what is measured is alone in any case")
    parser.add_argument("--item", help="run one item in this process")
    parser.add_argument("--shared", action="store_true", help="with --item: another process uses the GPU meanwhile")
    given = parser.parse_args(arguments)
    options = Options(given.gpu, given.bundle, given.count, given.steps, given.shared or given.jobs > 1)
    bundle = load_bundle(given.bundle) if given.bundle else load_bundle()
    if given.item:
        return _run_here(given.item, bundle, options)
    deciding, measured = list(proofs(bundle)), list(measurements(bundle))
    chosen = given.items or deciding + measured
    if unknown := set(chosen) - {*deciding, *measured}:
        parser.error(f"no such item: {', '.join(sorted(unknown))}; there are {', '.join(deciding + measured)}")
    deadline = time.monotonic() + 60 * given.minutes
    results: list[Result] = []

    def take(result: Result) -> None:
        results.append(result)
        if given.json:
            text = json.dumps(_report(results, set(chosen) >= {*deciding, *measured}, bundle.sha256), indent=2)
            given.json.write_text(text + "\n")

    with ThreadPoolExecutor(max(1, given.jobs)) as pool:
        at_once = [item for item in chosen if item in deciding]
        for result in pool.map(lambda item: _run_apart(item, options, deadline, decides=True), at_once):
            take(result)
    for item in chosen:
        if item in measured:
            take(_run_apart(item, replace(options, shared=False), deadline, decides=False))
    code = verdict(results)
    _print_table(results, code)
    return code


def verdict(results: list[Result]) -> int:
    """The exit code."""
    if any(result.status == "failed" for result in results):
        return 1
    proven = any(result.status == "passed" and result.item.startswith(NEEDED) for result in results)
    return 0 if proven else BackendUnavailableError.exit_code


def _run_here(item: str, bundle: Bundle, options: Options) -> int:
    """Runs an item and prints its result as a line of JSON; what goes wrong is the process's traceback."""
    try:
        outcome: dict[str, Any] = {"figures": (proofs(bundle) | measurements(bundle))[item](options)}
    except Skip as skip:
        outcome = {"skipped": str(skip)}
    except Failed as failed:
        outcome = {"failed": str(failed), "figures": failed.figures}
    tell(outcome)
    return 0


def _run_apart(item: str, options: Options, deadline: float, *, decides: bool) -> Result:
    def result(status: Status, reason: str, figures: dict[str, Any] | None = None, log: str = "") -> Result:
        seconds = round(time.monotonic() - started, 1)
        return Result(item, status, reason, figures or {}, seconds, decides, log[-_LOG:])

    started = time.monotonic()
    left = deadline - started
    if left <= 0:
        return result("failed" if decides else "skipped", "no time was left")
    try:
        done = subprocess.run(_command(item, options), capture_output=True, text=True, check=False, timeout=left)
    except subprocess.TimeoutExpired as error:
        output, said = ((text or b"").decode(errors="replace") for text in (error.stdout, error.stderr))
        so_far = (_told(output) or {}).get("figures")
        reason = f"not done after {left:.0f} s, no more time was left"
        return result("failed" if decides else "skipped", reason, so_far, said)
    outcome = _told(done.stdout)
    if done.returncode or outcome is None:
        said = done.stderr.strip()
        reason = said.splitlines()[-1] if said else f"the process ended with {done.returncode}"
        return result("failed", reason, log=said)
    if "skipped" in outcome:
        return result("skipped", outcome["skipped"])
    if "failed" in outcome:
        return result("failed", outcome["failed"], outcome["figures"], done.stderr)
    return result("passed", "", outcome["figures"])


def _told(output: str) -> dict[str, Any] | None:
    """The last that an item told; None where it told nothing."""
    lines = [line for line in output.splitlines() if line.startswith(TOLD)]
    return json.loads(lines[-1].removeprefix(TOLD)) if lines else None


def _command(item: str, options: Options) -> list[str]:
    """What runs an item in a process of its own; where that crashes, it says in which line."""
    command = [sys.executable, "-X", "faulthandler", "-m", "sbldm.benchmarks.gpu_check", "--item", item]
    command += ["--gpu", str(options.gpu), "--count", str(options.count)]
    command += ["--bundle", options.bundle] if options.bundle else []
    command += ["--steps", str(options.steps)] if options.steps else []
    return [*command, "--shared"] if options.shared else command


def _print_table(results: list[Result], code: int) -> None:
    width = max(len(result.item) for result in results)
    for result in results:
        figures = ", ".join(f"{name} {value}" for name, value in result.figures.items())
        said = "; ".join(filter(None, (result.reason, figures)))
        print(f"{result.item:<{width}}  {result.status:<7} {result.seconds:6.1f} s  {said}")
    counts = {status: sum(r.status == status for r in results) for status in ("passed", "failed", "skipped")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    words = {0: "PASSED", 1: "FAILED", BackendUnavailableError.exit_code: "NOT PROVEN: no backend ran on a GPU here"}
    print(words[code])


def _report(results: list[Result], complete: bool, bundle_sha256: str) -> dict[str, Any]:
    gpus = [str(r.figures["gpu"]) for r in results if "gpu" in r.figures]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "passed": complete and verdict(results) == 0,
        "gpu": gpus[0] if gpus else None,
        "bundle": bundle_sha256,
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
