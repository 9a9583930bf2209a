"""OpenVINO against ONNX Runtime on every component, and its bytes from run to run."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from sbldm.engine.backends.choose import choose_backend
from sbldm.engine.backends.mixed import MixedBackend, components_of_name, mixed_name
from sbldm.engine.backends.onnxruntime import OnnxRuntimeBackend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import BackendUnavailableError, UsageError
from sbldm.engine.processor import has_bf16

pytest.importorskip("openvino")
from sbldm.engine.backends.openvino import OpenVinoBackend

DIGEST = """
import sys, hashlib, numpy as np
from sbldm.engine.bundle.load import load_bundle
from sbldm.engine.backends.openvino import OpenVinoBackend
bundle = load_bundle(sys.argv[1])
backend = OpenVinoBackend(bundle, "auto", 2)
rng = np.random.default_rng(3)
for name, spec in bundle.manifest.components.items():
    feeds = {t.name: rng.standard_normal([2, *t.shape[1:]]).astype(t.dtype) for t in spec.inputs}
    for array in backend.run(name, feeds).values():
        print(hashlib.sha256(array.tobytes()).hexdigest())
"""


def inputs(bundle: Bundle, component: str, batch: int, seed: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = bundle.manifest.components[component].inputs
    return {t.name: rng.standard_normal([batch, *(int(n) for n in t.shape[1:])]).astype(t.dtype) for t in tensors}


@pytest.mark.parametrize(
    "precision", ["fp32", pytest.param("bf16", marks=pytest.mark.skipif(not has_bf16(), reason="no bf16 here"))]
)
def test_every_component_gives_what_onnx_runtime_gives(tiny_bundle: Bundle, precision: str) -> None:
    limit = {"fp32": 1e-5, "bf16": 2e-2}[precision]
    backend, reference = OpenVinoBackend(tiny_bundle, precision, 1), OnnxRuntimeBackend(tiny_bundle, "cpu", 1)
    for component in tiny_bundle.manifest.components:
        for batch in (1, 3):
            feeds = inputs(tiny_bundle, component, batch)
            expected, made = reference.run(component, feeds), backend.run(component, feeds)
            assert made.keys() == expected.keys()
            for name, wanted in expected.items():
                assert made[name].dtype == np.float32
                error = np.linalg.norm(made[name] - wanted) / np.linalg.norm(wanted)
                assert error < limit, f"{component}.{name}: {error}"


@pytest.mark.skipif(not has_bf16(), reason="no bf16 here")
def test_masks_are_drawn_in_fp32_in_bf16_too(tiny_mask_first_bundle: Bundle) -> None:
    half, single = (OpenVinoBackend(tiny_mask_first_bundle, precision, 1) for precision in ("bf16", "fp32"))
    for component, same in (("mask_denoiser", True), ("denoiser", False)):
        feeds = inputs(tiny_mask_first_bundle, component, 1)
        made, wanted = (backend.run(component, feeds)["prediction"] for backend in (half, single))
        assert np.array_equal(made, wanted) == same


def test_outputs_are_not_overwritten_by_the_next_run(tiny_bundle: Bundle) -> None:
    backend = OpenVinoBackend(tiny_bundle, "fp32", 1)
    first = backend.run("aggregator", inputs(tiny_bundle, "aggregator", 1, 1))["slices"]
    kept = first.copy()
    backend.run("aggregator", inputs(tiny_bundle, "aggregator", 1, 2))
    np.testing.assert_array_equal(first, kept)


def test_processes_agree_to_the_byte(tiny_bundle: Bundle) -> None:
    command = [sys.executable, "-c", DIGEST, str(tiny_bundle.path)]
    digests = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert digests[0] == digests[1]
    backend, mine = OpenVinoBackend(tiny_bundle, "auto", 2), []
    rng = np.random.default_rng(3)
    for name, spec in tiny_bundle.manifest.components.items():
        feeds = {t.name: rng.standard_normal([2, *(int(n) for n in t.shape[1:])]).astype(t.dtype) for t in spec.inputs}
        mine += [hashlib.sha256(array.tobytes()).hexdigest() for array in backend.run(name, feeds).values()]
    assert digests[0].split() == mine


def test_what_it_calls_itself(tiny_bundle: Bundle) -> None:
    backend = choose_backend(tiny_bundle, "openvino", threads=1)
    assert (backend.name, backend.device, backend.threads) == ("openvino", "cpu", 1)
    assert backend.precision == ("bf16" if has_bf16() else "fp32")


def test_refusals(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="offers auto, fp32, bf16"):
        choose_backend(tiny_bundle, "openvino", precision="fp16")
    with pytest.raises(UsageError, match="runs on the CPU"):
        choose_backend(tiny_bundle, "openvino", "cuda:0")
    monkeypatch.setattr("sbldm.engine.backends.openvino.has_bf16", lambda: False)
    with pytest.raises(UsageError, match="neither avx512_bf16 nor AMX"):
        choose_backend(tiny_bundle, "openvino", precision="bf16")
    assert choose_backend(tiny_bundle, "openvino").precision == "fp32"
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailableError, match=r"sbldm-engine\[openvino\]"):
        choose_backend(tiny_bundle, "openvino")


def test_a_mix_sends_each_component_where_its_name_says(tiny_bundle: Bundle) -> None:
    name = mixed_name(["decoder", "denoiser"])
    assert name == "openvino-denoiser-decoder"
    mixed = choose_backend(tiny_bundle, name, precision="fp32", threads=1)
    assert isinstance(mixed, MixedBackend)
    assert mixed.name == name
    parts = {"denoiser": OpenVinoBackend(tiny_bundle, "fp32", 1), "refiner": OnnxRuntimeBackend(tiny_bundle, "cpu", 1)}
    for component, part in parts.items():
        feeds = inputs(tiny_bundle, component, 1)
        expected, made = part.run(component, feeds), mixed.run(component, feeds)
        assert all(np.array_equal(made[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    "name", ["openvino-", "openvino-unet", "openvino-decoder-denoiser", "openvino-decoder-decoder"]
)
def test_other_spellings_of_a_mix_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="in the order encoder"):
        components_of_name(name)
