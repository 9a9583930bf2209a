from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sbldm.engine.backends.onnxruntime import OnnxRuntimeBackend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import DeviceMemoryError
from sbldm.engine.run import open_loop as opening
from sbldm.engine.run.request import GenerateRequest
from sbldm.engine.sampling.types import SampleRequest

from tests.support.host_device import HostDevice

HUNGRY = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n,c,d,h,w] sample, float[n] timestep, float[n,k] condition, float[n] condition_mask)
    => (float[n,c,d,h,w] prediction) {
        batch = Shape<start=0, end=1>(sample)
        twenty = Constant<value_ints=[20]>()
        size = Pow(batch, twenty)
        zero = Constant<value_float=0.0>()
        scratch = Expand(zero, size)
        none = ReduceMax<keepdims=0>(scratch)
        prediction = Add(sample, none)
    }"""


def test_a_batch_for_which_onnx_runtime_really_finds_no_memory_is_told(tiny_bundle: Bundle) -> None:
    """A denoiser that takes 4 bytes times batch^20: 4 MiB for two samples, 4 TiB for four."""
    onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    backend = OnnxRuntimeBackend(tiny_bundle, "cpu", 1)
    model = onnx.parser.parse_model(HUNGRY).SerializeToString()
    backend._sessions["denoiser"] = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    options = GenerateRequest(bundle=tiny_bundle, count=1, steps=1).options()
    request = SampleRequest(0, 0, np.zeros(12, np.float32))
    told: list[str] = []

    def run(size: int) -> int:
        opening.open_loop(tiny_bundle, backend, options, size).start([request])
        return size

    assert opening.fit_batch(run, 4, told.append) == 2
    assert "Failed to allocate memory" in told[0]
    with pytest.raises(DeviceMemoryError, match="Failed to allocate memory"):
        run(4)


def test_no_clock_decides_a_batch_size(
    tiny_bundle: Bundle, tiny_mask_first_bundle: Bundle, host_backend: Any, kernel_folder: Path
) -> None:
    """On a CPU one sample, on a card what its whole memory suggests, whatever is free of it now."""
    options = GenerateRequest(bundle=tiny_bundle, count=1).options()
    assert opening.default_batch_size(OnnxRuntimeBackend(tiny_bundle, "cpu", 1), options) == 1
    found = []
    for memory in (2**31, 12 * 2**20, 10_000):
        device = HostDevice(kernel_folder, memory)
        device.allocate((memory // 2,), "uint8")
        found.append(opening.default_batch_size(host_backend(tiny_bundle, device), options))
    assert found[0] == 32 > found[1] > found[2] == 1
    driven = host_backend(tiny_mask_first_bundle, HostDevice(kernel_folder))
    assert opening.default_batch_size(driven, options) == 8  # the host has the midst of it


def test_auto_on_the_command_line_is_resolved_and_recorded(tiny_bundle: Bundle, tmp_path) -> None:
    import json

    from sbldm.cli.main import main

    asked = ["generate", "--bundle", str(tiny_bundle.path), "--count", "2", "--steps", "1", "--threads", "1", "--quiet"]
    asked += ["--out", str(tmp_path / "out"), "--batch-size", "auto"]
    assert main(asked) == 0
    recorded = json.loads((tmp_path / "out/run.json").read_text())["resolved"]["batch_size"]
    assert recorded == 1
    assert main([*asked, "--resume"]) == 0


def test_a_run_on_the_cpu_imports_nothing_of_cuda(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """In a process of its own, by the command line and by the Python interface."""
    script = f"""
import sys
from sbldm.cli.main import main
from sbldm.engine.generator import Generator

asked = ["generate", "--bundle", {str(tiny_bundle.path)!r}, "--count", "1", "--steps", "1", "--threads", "1", "--quiet"]
assert main([*asked, "--out", {str(tmp_path / "out")!r}]) == 0
with Generator.load({str(tiny_bundle.path)!r}, threads=1) as generator:
    generator.sample(0, steps=1)
print([name for name in sys.modules if name.startswith("sbldm.engine.cuda")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_mask_first_bundle_on_a_gpu_takes_each_stages_steps_there(
    tiny_mask_first_bundle: Bundle, host_backend: Any, kernel_folder: Path
) -> None:
    """Its masks are solved on the host between them."""
    backend = host_backend(tiny_mask_first_bundle, HostDevice(kernel_folder))
    options = GenerateRequest(bundle=tiny_mask_first_bundle, count=1, steps=1).options()
    loop = opening.open_loop(tiny_mask_first_bundle, backend, options, 1)
    assert (loop.kind, loop.in_flight) == ("graph", 1)
    assert loop.reason.startswith("each stage: ")
