"""Milliseconds and departure of each component: eager PyTorch, ONNX Runtime, OpenVINO on the same weights and inputs.

python -m sbldm.benchmarks.components --checkpoint DIR [--threads 2] [--repeats 7] [--json FILE]

Runs are interleaved (A B C A B C) after one round that is not counted; each figure is the median of the runs during
which other processes took less than 0.1 core, of all runs where there was no such run (marked `*`: eager PyTorch loses
most on a busy machine, so compare figures of a quiet one only). ONNX Runtime gets the graph that it has in a bundle.
The denoiser is asked for the last training step, where a runtime that reduces the time embedding departs most.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from ..engine.errors import BackendUnavailableError, SbldmError
from ..engine.processor import available_threads, cpu_name
from ..engine.sampling.decoding import DECODER_SLICES
from ..engine.sampling.slabs import SLABS_AT_ONCE
from ..export.bundle import form_of, system_networks
from ..export.components import Component, components_of, random_inputs
from ..export.onnx_graph import export_graph
from ..export.parity import compare
from ..export.rewrite.winograd import with_fast_convolutions
from ..export.runners import OnnxRunner, torch_runner
from ..train.checkpoint import load_system
from ..train.config import AnySystem
from .timing import Timing, interleaved

REPEATS = 7
OPSET = 21
EAGER, ONNX_RUNTIME, OPENVINO_FP32 = "PyTorch eager fp32", "ONNX Runtime fp32", "OpenVINO fp32"
OPENVINO = "OpenVINO default"  # bf16 where the processor has it
Arrays = Mapping[str, NDArray[Any]]
MEANS = (EAGER, ONNX_RUNTIME, OPENVINO_FP32, OPENVINO)


@dataclass(frozen=True)
class Row:
    """One component on one machine."""

    component: str
    batch: int
    timings: dict[str, Timing]  # by MEANS
    departures: dict[str, float]  # RMS relative to eager PyTorch, of the worst output

    def text(self) -> str:
        """A line of the Markdown table: milliseconds, how many times faster than eager PyTorch, and the departure."""
        eager = self.timings[EAGER].seconds
        cells = []
        for name in MEANS:
            timing = self.timings[name]
            more = "" if name == EAGER else f" (x{eager / timing.seconds:.2f}), {self.departures[name]:.1e}"
            cells.append(f"{1000 * timing.seconds:.2f}{'*' if timing.busy else ''}{more}")
        return f"| {self.component} | {self.batch} | {' | '.join(cells)} |"


def measure(components: Mapping[str, Component], config: AnySystem, threads: int, repeats: int) -> list[Row]:
    """Time every component.

    Args:
        components: of a system.
        config: of that system.
        threads: of every runtime.
        repeats: timed runs of each.

    Raises:
        BackendUnavailableError: OpenVINO is not installed.
    """
    torch.set_num_threads(threads)
    rows, depth, form = [], config.grid.shape[2], form_of(config)
    at_once = SLABS_AT_ONCE if form == "mask-first" else DECODER_SLICES
    for name, component in components.items():
        batch = at_once if name in ("encoder", "decoder") else 1
        inputs = {key: value.numpy() for key, value in random_inputs(component, batch, 0, depth).items()}
        if "timestep" in inputs:
            inputs["timestep"] = np.full(batch, config.schedule.steps - 1, np.float32)
        model = export_graph(component, depth, OPSET)
        calls: dict[str, Callable[[], Arrays]] = {
            EAGER: partial(torch_runner({name: component}, form).run, name, inputs),
            ONNX_RUNTIME: partial(OnnxRunner({name: with_fast_convolutions(model)}, threads).run, name, inputs),
            OPENVINO_FP32: _openvino(model, inputs, threads, {"INFERENCE_PRECISION_HINT": "f32"}),
            OPENVINO: _openvino(model, inputs, threads, {}),
        }
        rows.append(Row(name, batch, interleaved(calls, repeats), _departures(calls)))
    return rows


def _departures(calls: Mapping[str, Callable[[], Arrays]]) -> dict[str, float]:
    expected = calls[EAGER]()
    found = {}
    for name in MEANS[1:]:
        made = calls[name]()
        found[name] = max(compare(values, made[key], 1.0)[1] for key, values in expected.items())
    return found


def _openvino(
    model: onnx.ModelProto, inputs: Arrays, threads: int, settings: Mapping[str, str]
) -> Callable[[], Arrays]:
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailableError('openvino is not installed: pip install "sbldm-engine[openvino]"') from error
    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **settings}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
    request = compiled.create_infer_request()
    names = [value.name for value in model.graph.output]
    return lambda: dict(zip(names, request.infer(dict(inputs)).values(), strict=True))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and, last, one JSON object; the exit code of the error where something is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="training directory")
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args(arguments)
    if given.threads < 1 or given.repeats < 1:
        parser.error("--threads and --repeats must be 1 or more")
    try:
        config = load_system(given.checkpoint)
        components = components_of(config, system_networks(given.checkpoint, config))
        rows = measure(components, config, given.threads, given.repeats)
    except SbldmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{config.preset} on {cpu_name()}, {given.threads} threads: ms a call, RMS departure\n")
    print(f"| component | batch | {' | '.join(MEANS)} |\n|{' --- |' * (len(MEANS) + 2)}")
    print("\n".join(row.text() for row in rows) + "\n")
    figures = {
        "preset": config.preset,
        "cpu": cpu_name(),
        "threads": given.threads,
        "torch": torch.__version__,
        "rows": [asdict(row) for row in rows],
    }
    print(json.dumps(figures))
    if given.json is not None:
        given.json.write_text(json.dumps(figures) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
