"""Milliseconds of each component: eager PyTorch, ONNX Runtime, OpenVINO on the same weights and inputs.

    python -m sbldm.benchmarks.components --checkpoint DIR [--threads 2] [--json]

Runs are interleaved (A B C A B C), each figure is a median, the first round is not counted. On a machine that does
other work as well, eager PyTorch loses most: compare figures of a quiet machine only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from ..export.components import Component, components_of, random_inputs
from ..export.onnx_graph import export_graph
from ..export.runners import OnnxRunner, TorchRunner
from ..train.checkpoint import load_system
from ..train.system import load_networks

ROUNDS = 7
SLICES = 16  # batch of encoder and decoder; the others take one volume


@dataclass(frozen=True)
class Row:
    """One component on one machine."""

    component: str
    batch: int
    eager_ms: float
    onnxruntime_ms: float
    openvino_ms: float  # at the precision that OpenVINO chooses for this processor
    openvino_fp32_ms: float

    def text(self) -> str:
        """A line of the table with ratios to eager PyTorch."""
        others = (self.onnxruntime_ms, self.openvino_ms, self.openvino_fp32_ms)
        shown = "  ".join(f"{ms:9.2f} x{self.eager_ms / ms:5.2f}" for ms in others)
        return f"{self.component:<18} {self.batch:>3}  {self.eager_ms:9.2f}  {shown}"


def measure(components: Mapping[str, Component], depth: int, opset: int, threads: int) -> list[Row]:
    """Time every component; `threads` holds for all three runtimes."""
    torch.set_num_threads(threads)
    rows = []
    for name, component in components.items():
        batch = SLICES if name in ("encoder", "decoder") else 1
        inputs = {key: value.numpy() for key, value in random_inputs(component, batch, 0, depth).items()}
        model = export_graph(component, depth, opset)
        eager, session = TorchRunner(components), OnnxRunner({name: model}, threads)
        calls: dict[str, Callable[[], object]] = {
            "eager_ms": lambda runner=eager, name=name, inputs=inputs: runner.run(name, inputs),
            "onnxruntime_ms": lambda runner=session, name=name, inputs=inputs: runner.run(name, inputs),
            "openvino_ms": _openvino(model, inputs, threads, {}),
            "openvino_fp32_ms": _openvino(model, inputs, threads, {"INFERENCE_PRECISION_HINT": "f32"}),
        }
        rows.append(Row(name, batch, **interleaved_medians(calls)))
    return rows


def interleaved_medians(calls: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median milliseconds of each call over `rounds` rounds after one that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def _openvino(
    model: onnx.ModelProto, inputs: Mapping[str, NDArray[Any]], threads: int, settings: Mapping[str, str]
) -> Callable[[], object]:
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **settings}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
    request = compiled.create_infer_request()
    return lambda: request.infer(dict(inputs))


def main() -> None:
    """Print the table, and one JSON line with `--json`."""
    parser = argparse.ArgumentParser(description="Time each component in PyTorch, ONNX Runtime and OpenVINO.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--opset", type=int, default=21)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = load_system(options.checkpoint)
    components = components_of(config, load_networks(options.checkpoint, config))
    rows = measure(components, config.grid.shape[2], options.opset, options.threads)
    print("component        batch   eager ms  ONNX Runtime ms   OpenVINO ms       OpenVINO fp32 ms")
    for row in rows:
        print(row.text())
    if options.json:
        print(json.dumps({"threads": options.threads, "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
