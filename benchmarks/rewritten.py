"""What the graphs that are rewritten for ONNX Runtime on a CPU save, component by component.

python -m sbldm.benchmarks.rewritten [--bundle phantom] [--repeats 9]

The plain graph and the rewritten one (`export/rewrite/winograd.py`) on a real call of each component, by turns, in
milliseconds of processor time of one thread, so that other work on the machine lengthens them little.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np

from ..engine.backends.onnxruntime import OnnxRuntimeBackend
from ..engine.bundle.load import Bundle, load_bundle
from ..engine.onnx_sessions import fast_graph_name, import_onnxruntime, session_options
from .component_calls import calls_of


@dataclass(frozen=True)
class Saving:
    """One component: calls a volume, seconds a call of either graph, RMS of the difference over the plain one's."""

    component: str
    calls: float
    plain: float
    rewritten: float
    departure: float


def savings(bundle: Bundle, repeats: int) -> list[Saving]:
    """Of every component that has a rewritten graph, in the bundle's order."""
    calls = calls_of(bundle, OnnxRuntimeBackend(bundle, "cpu", 1))
    found = []
    for name, spec in bundle.manifest.components.items():
        if fast_graph_name(spec.file) not in bundle.manifest.files or name not in calls.inputs:
            continue
        plain = bundle.component_path(name)
        sessions = [
            import_onnxruntime().InferenceSession(path, session_options(1), providers=["CPUExecutionProvider"])
            for path in (plain, plain.with_name(fast_graph_name(spec.file)))
        ]
        inputs = calls.inputs[name]
        wanted, made = (session.run(None, inputs) for session in sessions)
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            for session, taken in zip(sessions, seconds, strict=True):
                start = time.process_time()
                session.run(None, inputs)
                taken.append(time.process_time() - start)
        departures = [np.sqrt(np.mean((b - a) ** 2) / np.mean(a**2)) for a, b in zip(wanted, made, strict=True)]
        before, after = (statistics.median(taken) for taken in seconds)
        found.append(Saving(name, calls.a_volume[name], before, after, float(max(departures))))
    return found


def table(found: list[Saving]) -> str:
    """Markdown: a line a component, and their sum for a volume."""
    lines = ["| component, calls a volume | plain ms | rewritten ms | times | departure |", "|" + " --- |" * 5]
    lines += [
        f"| {s.component}, {s.calls:g} | {1000 * s.plain:.1f} | {1000 * s.rewritten:.1f} | {s.plain / s.rewritten:.2f} "
        f"| {s.departure:.0e} |"
        for s in found
    ]
    plain, rewritten = sum(s.calls * s.plain for s in found), sum(s.calls * s.rewritten for s in found)
    lines.append(f"| **a volume** | {1000 * plain:.0f} | {1000 * rewritten:.0f} | {plain / rewritten:.2f} | |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="phantom")
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args(arguments)
    found = savings(load_bundle(given.bundle), given.repeats)
    if not found:
        parser.error(f"--bundle {given.bundle}: no component of it has a rewritten graph (*.cpu.onnx)")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
