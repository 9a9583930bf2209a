"""Rewritten convolutions against the plain ones, on single layers and on a whole denoiser."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from sbldm.engine.backends.onnxruntime import OnnxRuntimeBackend
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import InvalidInputError
from sbldm.export.rewrite.winograd import save_beside, with_fast_convolutions, write_fast_graph


def layer(
    channels: int,
    depth: int,
    bias: bool = True,
    stored: type = np.float32,
    out_channels: int = 24,
    **attributes: object,
) -> onnx.ModelProto:
    """A graph of one 3x3x3 convolution of (batch, channels, depth, 5, 3)."""
    rng = np.random.default_rng(0)
    kernel = (rng.standard_normal((out_channels, channels, 3, 3, 3)) / np.sqrt(27 * channels)).astype(stored)
    weights = [numpy_helper.from_array(kernel, "stored")]
    if bias:
        weights.append(numpy_helper.from_array(rng.standard_normal(out_channels).astype(np.float32), "bias"))
    inputs = ["x", "kernel", "bias"] if bias else ["x", "kernel"]
    nodes = [
        helper.make_node("Cast", ["stored"], ["kernel"], to=TensorProto.FLOAT),
        helper.make_node("Conv", inputs, ["y"], **({"kernel_shape": [3, 3, 3], "pads": [1] * 6} | attributes)),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, depth, 5, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", out_channels, None, None, None])
    graph = helper.make_graph(nodes, "layer", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def flat_layer(channels: int, height: int, rows: int, out_channels: int = 64) -> onnx.ModelProto:
    """A graph of one 3x3 convolution over the planes of (batch, rows, channels, height, 5)."""
    rng = np.random.default_rng(0)
    kernel = (rng.standard_normal((out_channels, channels, 3, 3)) / np.sqrt(9 * channels)).astype(np.float32)
    values = {
        "kernel": kernel,
        "bias": rng.standard_normal(out_channels).astype(np.float32),
        "planes": np.array([-1, channels, height, 5]),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "planes"], ["folded"]),
        helper.make_node("Conv", ["folded", "kernel", "bias"], ["y"], kernel_shape=[3, 3], pads=[1] * 4),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", rows, channels, height, 5])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, out_channels, None, None])
    graph = helper.make_graph(nodes, "layer", [x], [y], [numpy_helper.from_array(v, k) for k, v in values.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model: onnx.ModelProto | str, feeds: dict[str, np.ndarray]) -> np.ndarray:
    source = model if isinstance(model, str) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


@pytest.mark.parametrize("channels", [16, 48])
@pytest.mark.parametrize("depth", [4, 8, 20])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_a_layer_is_rewritten_and_gives_the_same(channels: int, depth: int, bias: bool, stored: type) -> None:
    plain = layer(channels, depth, bias, stored)
    fast = with_fast_convolutions(plain)
    assert [n.op_type for n in fast.graph.node].count("MatMul") == (4 if bias else 3)
    x = {"x": np.random.default_rng(1).standard_normal((3, channels, depth, 5, 3), np.float32)}
    expected = run(plain, x)
    np.testing.assert_allclose(run(fast, x), expected, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize("height", [4, 12])
@pytest.mark.parametrize(
    ("rows", "piece_bytes", "pieces"),
    [
        (1, 1, 1),  # one row is never cut
        (6, 1 << 23, 1),
        (6, 3 * 4 * 64 * 12 * 5 * 3 // 2, 2),  # room for three rows of height 12
        (7, 1, 7),  # not even one row fits: a piece each
    ],
)
def test_a_flat_layer_is_rewritten_in_pieces_and_gives_the_same(
    height: int, rows: int, piece_bytes: int, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sbldm.export.rewrite.winograd.LARGE", 9 * rows * 64 * height * 5 * 64)  # just large enough
    room = piece_bytes * height // 12 if pieces == 2 else piece_bytes
    monkeypatch.setattr("sbldm.export.rewrite.winograd.PIECE_BYTES", room)
    plain = flat_layer(64, height, rows)
    fast = with_fast_convolutions(plain)
    assert [n.op_type for n in fast.graph.node].count("Conv") == pieces
    x = {"x": np.random.default_rng(1).standard_normal((2, rows, 64, height, 5), np.float32)}
    expected = run(plain, x)
    np.testing.assert_allclose(run(fast, x), expected, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize(
    "model",
    [
        flat_layer(48, 8, 1),  # narrow
        flat_layer(64, 8, 1, out_channels=48),
        flat_layer(64, 6, 1),  # height without whole tiles
        layer(8, 8),  # channels below a block
        layer(16, 6),  # depth without whole tiles
        layer(16, 8, strides=[2, 2, 2]),
        layer(16, 8, dilations=[1, 1, 2], pads=[1, 1, 2, 1, 1, 2]),
        layer(16, 8, pads=[0] * 6),
    ],
)
def test_other_layers_stay(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbldm.export.rewrite.winograd.LARGE", 0)
    assert with_fast_convolutions(model) is model


def test_a_flat_layer_of_little_work_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbldm.export.rewrite.winograd.LARGE", 9 * 64 * 8 * 5 * 64 + 1)
    model = flat_layer(64, 8, 1)
    assert with_fast_convolutions(model) is model


def denoiser_inputs(bundle: Bundle, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {
        spec.name: rng.standard_normal([batch, *(int(n) for n in spec.shape[1:])], np.float32)
        for spec in bundle.manifest.components["denoiser"].inputs
    }


def test_a_denoiser_next_to_its_plain_graph(tiny_bundle: Bundle, tmp_path: Path) -> None:
    plain, fast = tmp_path / "denoiser.onnx", tmp_path / "denoiser.cpu.onnx"
    shutil.copy(tiny_bundle.component_path("denoiser"), plain)
    model = onnx.load(plain)
    rewritten = with_fast_convolutions(model)
    assert rewritten is not model
    save_beside(rewritten, fast, plain)
    assert fast.stat().st_size < plain.stat().st_size / 2
    feeds = denoiser_inputs(tiny_bundle, 2)
    expected = run(str(plain), feeds)
    np.testing.assert_allclose(run(str(fast), feeds), expected, atol=1e-5 * float(np.abs(expected).max()))


def test_weights_are_shared_inside_one_folder_only(tiny_bundle: Bundle, tmp_path: Path) -> None:
    plain = tiny_bundle.component_path("denoiser")
    with pytest.raises(ValueError, match="different folders"):
        save_beside(onnx.load(plain), tmp_path / "denoiser.cpu.onnx", plain)


def test_a_bundle_holds_the_fast_graph_and_onnx_runtime_takes_it(tiny_bundle: Bundle) -> None:
    fast = tiny_bundle.path / "denoiser.cpu.onnx"
    kinds = [node.op_type for node in onnx.load(fast, load_external_data=False).graph.node]
    assert kinds.count("Gather") > 0
    session = OnnxRuntimeBackend(tiny_bundle, "cpu", 1).session("denoiser")
    assert session._model_path == str(fast)


def test_a_rewrite_that_departs_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "denoiser.onnx"
    shutil.copy(tiny_bundle.component_path("denoiser"), plain)
    monkeypatch.setattr("sbldm.export.rewrite.winograd._BIAS", [1, 1, 0, 0, 0, 0])
    with pytest.raises(InvalidInputError, match="departs by"):
        write_fast_graph(onnx.load(plain), plain)
