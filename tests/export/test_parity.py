"""The gate sees what it is there to see, and names the place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sbldm.engine.backends.onnxruntime import OnnxRuntimeBackend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import InvalidInputError
from sbldm.engine.generator import Generator
from sbldm.engine.sampling.decoding import NOT_FINITE
from sbldm.engine.sampling.types import SamplingOptions, Volume
from sbldm.export.divergence import first_divergent_layer
from sbldm.export.gate import GateInputs, fault_table, require_passed, run_gate
from sbldm.export.parity import RMS_LIMIT, ParityReport, check_component, compare, compare_volumes, sample_volume
from sbldm.export.runners import OnnxRunner

from tests.export.conftest import ExportedPreset
from tests.export.test_graphs import arrays

REFERENCE = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)


@given(st.floats(1e-6, 1e-1), st.floats(1e-5, 1e-2))
def test_the_relative_error_is_that_of_the_definition(size: float, limit: float) -> None:
    noise = np.random.default_rng(1).standard_normal(REFERENCE.shape)
    made = REFERENCE + size * noise
    largest, rms, fault = compare(REFERENCE, made, limit)
    assert rms == pytest.approx(np.linalg.norm(size * noise) / np.linalg.norm(REFERENCE), rel=1e-3)
    assert largest == pytest.approx(np.abs(size * noise).max() / np.abs(REFERENCE).max(), rel=1e-3)
    assert (fault is not None) == (rms > limit)


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (np.where(REFERENCE > 2, np.nan, REFERENCE), "NaN"),
        (np.where(REFERENCE > 2, np.inf, REFERENCE), "Inf"),
        (np.zeros_like(REFERENCE), "constant"),
        (np.clip(REFERENCE, -1, 1), "clipped"),
        (np.where(REFERENCE > 2, 65504, REFERENCE), "clipped"),
        (REFERENCE[:1], "shape"),
        (REFERENCE * 1.1, "RMS"),
    ],
)
def test_each_kind_of_fault_is_named(made: np.ndarray, fault: str) -> None:
    found = compare(REFERENCE, made, 2e-2)[2]
    assert found is not None
    assert fault in found


def test_a_saturated_reference_is_no_fault_of_the_export() -> None:
    saturated = np.clip(REFERENCE, -0.5, 0.5)
    assert compare(saturated, saturated.copy(), 1e-4)[2] is None


@pytest.mark.parametrize(
    ("exported", "name"),
    [("phantom", "denoiser"), ("glioma", "denoiser"), ("glioma", "mask_denoiser"), ("glioma", "decoder")],
    indirect=["exported"],
)
def test_a_wrong_weight_is_found_and_located(exported: ExportedPreset, name: str) -> None:
    component, good = exported.components[name], exported.models[name]
    inner = ("down.", "unet.down.", "blocks.")
    convolutions = [node for node in good.graph.node if node.op_type == "Conv" and node.name.startswith(inner)]
    victim = convolutions[len(convolutions) // 2]
    bad = onnx.ModelProto()
    bad.CopyFrom(good)
    weight = next(tensor for tensor in bad.graph.initializer if tensor.name == victim.input[1])
    weight.CopyFrom(onnx.numpy_helper.from_array(1.5 * onnx.numpy_helper.to_array(weight), weight.name))
    inputs = arrays(exported, name, 1)
    runner = OnnxRunner({name: bad})
    figures = check_component(component, exported.networks.run, runner.run, {"random": inputs}, RMS_LIMIT["fp32"])
    assert figures[0].fault is not None
    where = first_divergent_layer(component, bad, inputs, 1e-4)
    assert f"and {victim.name.rpartition('/')[0]} " in where
    report = ParityReport("fp32", 1e-4, 0.99, tuple(figures), None, {name: where})
    assert where in fault_table(report)
    with pytest.raises(InvalidInputError, match="no bundle was written"):
        require_passed(report)


def test_volumes_are_compared_by_image_and_by_label() -> None:
    random = np.random.default_rng(2)
    image = random.integers(0, 1000, (2, 8, 8, 8)).astype(np.int16)
    label = random.integers(0, 3, (8, 8, 8)).astype(np.uint8)
    names, volume = ("background", "a", "b", "absent"), Volume(0, 0, image, label, None)
    same = compare_volumes(volume, volume, names, 7, "fp32")
    assert (same.psnr_db, same.fault, set(same.dice.values()), same.steps) == (None, None, {1.0}, 7)
    broken = compare_volumes(volume, replace(volume, fault=NOT_FINITE), names, 7, "fp32")
    assert broken.fault == NOT_FINITE
    grey = compare_volumes(volume, replace(volume, image=image + 10), names, 7, "fp32")
    assert grey.fault == "PSNR 40.0 dB under 60"
    assert compare_volumes(volume, replace(volume, image=image + 10), names, 7, "bf16").fault is None
    other = label.copy()
    other[:2] = 0
    worse = compare_volumes(volume, Volume(0, 0, image + 10, other, None), names, 7, "fp32")
    assert worse.psnr_db == pytest.approx(40.0)
    assert str(worse.fault).startswith("Dice of ")
    overlap = ((label == 1) & (other == 1)).sum()
    assert worse.dice["a"] == pytest.approx(2 * overlap / ((label == 1).sum() + (other == 1).sum()))


@pytest.mark.parametrize("changed", [{}, {"guidance": 2.0}, {"sampler": "dpmpp-2m", "steps": 4}, {"eta": 1.0}])
def test_the_gates_volume_is_what_generate_makes(tiny_bundle: Bundle, changed: dict[str, Any]) -> None:
    """Byte for byte, by the bundle's own sampler and steps and by others."""
    backend, seed = OnnxRuntimeBackend(tiny_bundle, "cpu", 1), 5
    options = replace(SamplingOptions.default(tiny_bundle.manifest.defaults, seed), **changed)
    volume = sample_volume(backend.run, tiny_bundle.manifest, seed, options)
    with Generator(tiny_bundle, backend) as generator:
        sample = generator.sample(0, seed=seed, **changed)
    assert sample.fault is volume.fault is None
    assert volume.image.tobytes() == sample.image.tobytes()
    assert volume.label.tobytes() == sample.label.tobytes()


@pytest.mark.parametrize(
    ("exported", "forgotten", "tensor"),
    [
        ("phantom", "refiner", "image"),
        ("phantom", "refiner", "label"),
        ("glioma", "mask_denoiser", "condition"),
        ("glioma", "denoiser", "tissues"),
        ("glioma", "denoiser", "draft"),
        ("glioma", "encoder", "image"),
        ("glioma", "aggregator", "latent"),
        ("glioma", "decoder", "features"),
    ],
    indirect=["exported"],
)
def test_an_engine_that_keeps_something_from_a_network_does_not_pass(
    exported: ExportedPreset, forgotten: str, tensor: str
) -> None:
    """Components that equal their networks are not enough: the volume is the engine's own."""
    runner = OnnxRunner(exported.models)

    def forgetful(component: str, inputs: Any) -> Any:
        if component == forgotten:
            inputs = {**inputs, tensor: np.zeros_like(inputs[tensor])}
        return runner.run(component, inputs)

    inputs = GateInputs(exported.config, exported.manifest, None)
    report = run_gate(exported.components, exported.models, inputs, "fp32", lambda _message: None, forgetful)
    assert not report.divergences
    assert not report.passed
    place = "mask_denoiser: prediction (maps after" if forgotten == "mask_denoiser" else "volume after"
    assert place in fault_table(report)
