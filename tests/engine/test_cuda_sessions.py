"""Sessions for a GPU as far as a machine without one can show it: no node for the host, shapes fixed, options."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sbldm.engine.backends import onnxruntime_cuda
from sbldm.engine.bundle.checks import check_inputs
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.cuda import onnx_networks
from sbldm.engine.cuda.onnx_networks import OnnxRuntimeNetworks
from sbldm.engine.cuda_sessions import cuda_options, frozen_graph, open_cuda_session, session_without_host
from sbldm.engine.errors import BackendUnavailableError

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

SHAPE_OPERATORS = {"Shape", "Size", "ConstantOfShape", "Range", "NonZero"}
"""Whose results ONNX Runtime keeps on the host, and with them what computes on these."""


def test_a_node_that_would_run_on_the_host_is_refused(tiny_bundle: Bundle) -> None:
    """By ONNX Runtime itself: a provider that takes no node stands for CUDA."""
    if "AzureExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has the CPU alone")
    path = tiny_bundle.component_path("decoder")
    with pytest.raises(BackendUnavailableError, match="no kernel for some of its nodes, which would run on the CPU"):
        session_without_host(str(path), path, 1, "AzureExecutionProvider")


def test_onnx_runtime_without_cuda_is_refused(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(BackendUnavailableError, match="has no CUDA"):
        open_cuda_session(tmp_path / "model.onnx", 0, 1, "fp32")


@pytest.mark.parametrize("form", ["slices", "mask-first"])
def test_frozen_graphs_compute_no_shapes(tiny_bundle: Bundle, tiny_mask_first_bundle: Bundle, form: str) -> None:
    """Group normalisations compute shapes where they are written out."""
    bundle = tiny_bundle if form == "slices" else tiny_mask_first_bundle
    operators = set[str]()
    for name, spec in bundle.manifest.components.items():
        path = bundle.component_path(name)
        frozen = onnx.load_from_string(frozen_graph(path, 3))
        assert not SHAPE_OPERATORS & {node.op_type for node in frozen.graph.node}
        sizes = [dimension for value in frozen.graph.input for dimension in value.type.tensor_type.shape.dim[:1]]
        assert {dimension.dim_value for dimension in sizes} == {3}, spec
        operators |= {node.op_type for node in onnx.load(path).graph.node}
    assert ("GroupNormalization" in operators) == (form == "slices")


@pytest.mark.parametrize("form", ["slices", "mask-first"])
def test_frozen_graphs_give_the_same(tiny_bundle: Bundle, tiny_mask_first_bundle: Bundle, form: str) -> None:
    bundle = tiny_bundle if form == "slices" else tiny_mask_first_bundle
    for name, spec in bundle.manifest.components.items():
        inputs = check_inputs(spec, 3)
        path = bundle.component_path(name)
        made = [
            ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, inputs)
            for graph in (str(path), frozen_graph(path, 3))
        ]
        for expected, got in zip(*made, strict=True):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("form", ["slices", "mask-first"])
def test_no_graph_adds_in_an_order_that_is_not_fixed(
    tiny_bundle: Bundle, tiny_mask_first_bundle: Bundle, form: str
) -> None:
    """ONNX Runtime's kernel of reductions along leading axes adds atomically: no tensor of more than a few rows."""
    bundle = tiny_bundle if form == "slices" else tiny_mask_first_bundle
    found = 0
    for name in bundle.manifest.components:
        frozen = onnx.load_from_string(frozen_graph(bundle.component_path(name), 3))
        graph = onnx.shape_inference.infer_shapes(frozen).graph
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        shapes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.input)}
        for node in graph.node:
            if node.op_type.startswith("Reduce"):
                found += 1
                assert len(node.input) == 2, f"{node.name} reduces all axes"
                if 0 in constants[node.input[1]] % len(shapes[node.input[0]]):
                    assert shapes[node.input[0]][0].dim_value <= 8, node.name
    assert found


def test_tf32_and_graphs_only_where_they_are_asked_for() -> None:
    plain = cuda_options(1)
    assert (plain["use_tf32"], plain["enable_cuda_graph"], plain["device_id"]) == ("0", "0", "1")
    assert "user_compute_stream" not in plain
    asked = cuda_options(0, tf32=True, stream_handle=77, replays=True)
    assert (asked["use_tf32"], asked["enable_cuda_graph"], asked["user_compute_stream"]) == ("1", "1", "77")


def test_the_mask_denoiser_is_opened_in_fp32_in_every_precision(
    tiny_mask_first_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, str]] = []

    def opens(path: Path, _index: int, _rows: int, precision: str, *_: Any, **__: Any) -> None:
        opened.append((path.name, precision))

    for module in (onnx_networks, onnxruntime_cuda):
        monkeypatch.setattr(module, "open_cuda_session", opens)
    monkeypatch.setattr(onnx_networks, "OnnxRuntimeNetwork", lambda *_: None)
    monkeypatch.setattr(onnxruntime_cuda, "require_cuda", lambda _device: None)
    networks = OnnxRuntimeNetworks(tiny_mask_first_bundle, 0, "tf32", replays=True)
    stream: Any = SimpleNamespace(handle=0)
    backend = onnxruntime_cuda.OnnxRuntimeCudaBackend(tiny_mask_first_bundle, 0, 1, "tf32")
    for name in ("mask_denoiser", "denoiser"):
        networks.component(name, 2, stream, stream)
        backend.load(name, 2)
    masks, images = ("mask_denoiser.onnx", "fp32"), ("denoiser.onnx", "tf32")
    assert opened == [masks, masks, images, images]
