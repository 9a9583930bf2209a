"""Every component of every preset: equal to its network, in other runtimes too, in every precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from sbldm.engine.bundle.load import FP32_COMPONENTS
from sbldm.engine.processor import has_bf16
from sbldm.export.components import random_inputs
from sbldm.export.gate import GateInputs, fault_table, run_gate
from sbldm.export.parity import RMS_LIMIT, compare
from sbldm.export.rewrite.precision import Precision, reduce_precision, store_weights_as_fp16
from sbldm.export.runners import OnnxRunner

from tests.export.conftest import ExportedPreset

COMPUTE = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def arrays(exported: ExportedPreset, name: str, batch: int) -> dict[str, NDArray[Any]]:
    depth = exported.config.grid.shape[2]
    return {k: v.numpy() for k, v in random_inputs(exported.components[name], batch, 5, depth).items()}


def assert_equal_outputs(expected: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]], limit: float) -> None:
    assert set(got) == set(expected)
    for name, values in expected.items():
        assert compare(values, got[name], limit)[2] is None, name


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_presets_pass_the_gate_in_every_precision(exported: ExportedPreset, precision: Precision) -> None:
    models = exported.models | {
        name: reduce_precision(model, precision)
        for name, model in exported.models.items()
        if name not in FP32_COMPONENTS
    }
    config = exported.config
    real = np.random.default_rng(4).standard_normal((1, *exported.latent_shape), np.float32)
    inputs = GateInputs(config, exported.manifest, real)
    report = run_gate(exported.components, models, inputs, precision, lambda _message: None)
    assert not report.divergences, fault_table(report)
    assert report.volume is not None
    meaningful = {figure.component for figure in report.components if figure.case.startswith(("real", "a ball"))}
    assert meaningful == set(exported.components)
    if precision == "fp32":
        assert report.passed, fault_table(report)
    else:  # untrained networks decide by a hair over all steps, so the volume says little; the components do
        assert report.volume.psnr_db is None or report.volume.psnr_db > 25


def test_the_batch_axis_is_free(exported: ExportedPreset) -> None:
    networks, graphs = exported.networks, OnnxRunner(exported.models)
    for name in exported.components:
        for batch in (1, 3):
            inputs = arrays(exported, name, batch)
            assert_equal_outputs(networks.run(name, inputs), graphs.run(name, inputs), 1e-4)


def test_the_reference_evaluator_agrees(exported: ExportedPreset) -> None:
    for name in ("aggregator", "decoder", "denoiser"):
        inputs = arrays(exported, name, 1)
        expected = exported.networks.run(name, inputs)
        got = ReferenceEvaluator(exported.models[name]).run(None, inputs)
        assert isinstance(got, list)
        assert_equal_outputs(expected, dict(zip(expected, got, strict=True)), 1e-4)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_openvino_agrees(exported: ExportedPreset, precision: Precision) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    for name, model in exported.models.items():
        inputs = arrays(exported, name, 2)
        expected = exported.networks.run(name, inputs)
        data = reduce_precision(model, precision).SerializeToString()
        compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        made = compiled(inputs)
        got = {tensor: made[index] for index, tensor in enumerate(expected)}
        assert_equal_outputs(expected, got, RMS_LIMIT[precision])


@pytest.mark.skipif(not has_bf16(), reason="this processor does not multiply bfloat16")
def test_openvino_may_take_to_bf16_of_its_own_accord(exported: ExportedPreset) -> None:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    for name, model in exported.models.items():
        inputs = arrays(exported, name, 3)  # the denoiser first, middle and last
        expected = exported.networks.run(name, inputs)
        compiled = core.compile_model(
            core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"}
        )
        made = compiled(inputs)
        assert_equal_outputs(expected, {key: made[index] for index, key in enumerate(expected)}, RMS_LIMIT["bf16"])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_products_are_reduced_and_the_rest_is_not(exported: ExportedPreset, precision: Precision) -> None:
    low = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    for model in exported.models.values():
        reduced = reduce_precision(model, precision)
        kinds = tensor_types(reduced)
        straight = outer_products(model) if precision == "bf16" else set[str]()
        for node in reduced.graph.node:
            types = {kinds[name] for name in node.input if name in kinds}
            if node.op_type in COMPUTE:
                assert types == {TensorProto.FLOAT if node.name in straight else low}, node.name
            if node.op_type in ("GroupNormalization", "Softmax", "Sin", "Cos", "Exp"):
                assert types == {TensorProto.FLOAT}, node.name
        assert all(value.type.tensor_type.elem_type != low for value in [*reduced.graph.input, *reduced.graph.output])
        onnx.checker.check_model(reduced, full_check=True)


def outer_products(model: onnx.ModelProto) -> set[str]:
    """Products with none before them, products with a way to an output past all others, and 1x1 convolutions."""
    products = [node for node in model.graph.node if node.op_type in COMPUTE]
    made_by = {name: node for node in model.graph.node for name in node.output}
    reached: dict[str, set[str]] = {}  # node -> the products that it depends on
    for node in model.graph.node:
        makers = [made_by[name] for name in node.input if name in made_by]
        before = [reached[m.output[0]] | ({m.name} if m.op_type in COMPUTE else set()) for m in makers]
        reached[node.output[0]] = set().union(*before)
    free = {value.name for value in model.graph.output}  # tensors with such a way
    for node in reversed(model.graph.node):
        if free.intersection(node.output) and node.op_type not in COMPUTE:
            free.update(node.input)
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    pointwise = {n.name for n in products if n.op_type == "Conv" and set(weights[n.input[1]][2:]) == {1}}
    first = {node.name for node in products if not reached[node.output[0]]}
    return first | pointwise | {node.name for node in products if node.output[0] in free}


def test_stored_fp16_is_lossless_and_small(exported: ExportedPreset) -> None:
    for name, model in exported.models.items():
        rounded = onnx.ModelProto()
        rounded.CopyFrom(model)
        for tensor in rounded.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype == np.float32 and values.size >= 1024:
                half = values.astype(np.float16).astype(np.float32)
                tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
        stored = store_weights_as_fp16(rounded)
        inputs = arrays(exported, name, 2)
        a, b = OnnxRunner({name: rounded}).run(name, inputs), OnnxRunner({name: stored}).run(name, inputs)
        for tensor, values in a.items():
            np.testing.assert_array_equal(values, b[tensor])
        large = [t for t in stored.graph.initializer if np.prod(t.dims) >= 1024 and t.data_type == TensorProto.FLOAT]
        assert not large


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element types as a strongly typed runtime derives them: every operator keeps its first input's type."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        kind = node.attribute[0].i if node.op_type == "Cast" else kinds.get(node.input[0]) if node.input else None
        if kind is not None and node.op_type != "Shape":
            kinds |= dict.fromkeys(node.output, kind)
    return kinds
