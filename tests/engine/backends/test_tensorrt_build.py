"""The real TensorRT-RTX parser and builder, which need no GPU; keys are proven on real engine files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sbldm.engine.backends.tensorrt import build as tensorrt_build
from sbldm.engine.backends.tensorrt.build import BuildRequest, Flavour, build_engine, load_flavour, normalise_capability
from sbldm.engine.backends.tensorrt.cache import EngineCache, read_engine
from sbldm.engine.backends.tensorrt.engines import EngineSet, Target, foreign_target, present_target
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.cuda.shapes import rows_of
from sbldm.engine.errors import BackendUnavailableError, InvalidInputError

BATCH = 2


@pytest.fixture(scope="module")
def rtx() -> Flavour:
    pytest.importorskip("tensorrt_rtx")
    return load_flavour("tensorrt_rtx")


def graph(folder: Path, operator: str = "Relu", name: str = "good") -> Path:
    weight = numpy_helper.from_array(np.ones((2, 2, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="first"),
        helper.make_node(operator, ["y"], ["z"], name=name),
    ]
    tensors = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 5, 5])]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", tensors, outputs, [weight]),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("capability", ["80", "86", "89", "120"])
def test_engines_are_built_for_other_gpus(rtx: Flavour, tmp_path: Path, capability: str) -> None:
    blob, figures = build_engine(rtx, BuildRequest(graph(tmp_path), BATCH, capability))
    assert len(blob) == figures["engine_bytes"] > 10_000
    assert figures["layers"] >= 2


def test_an_unsupported_graph_is_refused_with_the_name_of_its_node(rtx: Flavour, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"node 'odd one' \(Det\)"):
        build_engine(rtx, BuildRequest(graph(tmp_path, "Det", "odd one"), BATCH, "89"))


def test_a_damaged_file_is_refused_before_the_parser_sees_it(rtx: Flavour, tmp_path: Path) -> None:
    path = graph(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidInputError, match=r"model\.onnx: not a sound ONNX file"):
        build_engine(rtx, BuildRequest(path, BATCH, "89"))


def test_hopper_is_refused_by_rtx_and_cross_building_by_the_other_flavour(rtx: Flavour, tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"capability 90 .*allowed: 75, 80, 86, 89, 120, 121"):
        build_engine(rtx, BuildRequest(graph(tmp_path), BATCH, "90"))
    other = dataclasses.replace(rtx, name="tensorrt")
    with pytest.raises(BackendUnavailableError, match="for the GPU of this machine only"):
        foreign_target(other, "89", None)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Error Code 2: OutOfMemory (Requested size was 9 bytes.)", r"ran out of memory \(workspace limit 64 MiB\)"),
        ("cudaError 35: driver insufficient", "--compute-capability 89"),
        ("Myelin assertion", "could not build model.onnx at batch 2\n  Myelin assertion"),
    ],
)
def test_a_failed_build_says_what_to_do(rtx: Flavour, tmp_path: Path, said: str, advice: str) -> None:
    api: Any = rtx.api

    class FailingBuilder:
        def __init__(self, logger: Any) -> None:
            self.real, self.logger = api.Builder(logger), logger

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def build_serialized_network(self, _network: Any, _config: Any) -> None:
            self.logger.log(api.ILogger.ERROR, said)

    names = (
        "ILogger",
        "MemoryPoolType",
        "NetworkDefinitionCreationFlag",
        "OnnxParser",
        "ComputeCapability",
        "BuilderFlag",
    )
    failing: Any = SimpleNamespace(Builder=FailingBuilder, **{name: getattr(api, name) for name in names})
    flavour = Flavour("tensorrt_rtx", rtx.version, failing)
    with pytest.raises(BackendUnavailableError, match=advice):
        build_engine(flavour, BuildRequest(graph(tmp_path), BATCH, "89", workspace_bytes=64 << 20))


def test_no_builder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(tensorrt_build.importlib, "import_module", absent)
    with pytest.raises(BackendUnavailableError, match=r"sbldm-engine\[tensorrt\]"):
        load_flavour()
    monkeypatch.setattr(tensorrt_build.importlib, "import_module", lambda _name: SimpleNamespace())
    with pytest.raises(BackendUnavailableError, match="only type stubs"):
        load_flavour()


@pytest.mark.parametrize(
    ("text", "meant"), [("89", "89"), ("8.9", "89"), ("sm_120", "120"), ("SM86", "86"), ("12.0", "120")]
)
def test_capabilities_can_be_written_in_several_ways(text: str, meant: str) -> None:
    assert normalise_capability(text) == meant


@pytest.mark.parametrize("text", ["", "8", "ada", "8.9.1", "1234"])
def test_other_text_is_no_capability(text: str) -> None:
    with pytest.raises(BackendUnavailableError, match="write it like 89"):
        normalise_capability(text)


def test_without_a_driver_the_present_gpu_is_refused_in_words() -> None:
    try:
        target = present_target()
    except BackendUnavailableError as error:
        assert "NVIDIA driver" in str(error) or "cuda-bindings" in str(error)  # noqa: PT017
    else:
        assert target.present
        assert target.compute_capability.isdigit()


def test_stale_keys_are_never_loaded(rtx: Flavour, tiny_bundle: Bundle, tmp_path: Path) -> None:
    """A real engine answers to its own key and to none that differs in weights, batch, precision, version or device."""
    target, cache = Target("89", "13000", present=False), EngineCache(tmp_path)
    engines = EngineSet(tiny_bundle, rtx, target, cache)
    built = engines.prepare("decoder", 8)
    assert built.built
    assert not engines.prepare("decoder", 8).built
    assert not EngineSet(tiny_bundle, rtx, target, EngineCache(tmp_path)).prepare("decoder", 8).built

    manifest = tiny_bundle.manifest
    record = dataclasses.replace(manifest.files["decoder.onnx"], sha256="0" * 64)
    retrained = dataclasses.replace(manifest, files={**manifest.files, "decoder.onnx": record})
    half = dataclasses.replace(manifest, precision="fp16")
    others = [
        EngineSet(dataclasses.replace(tiny_bundle, manifest=retrained), rtx, target, cache),
        EngineSet(dataclasses.replace(tiny_bundle, manifest=half), rtx, target, cache),
        EngineSet(tiny_bundle, dataclasses.replace(rtx, version="1.6.0"), target, cache),
        EngineSet(tiny_bundle, dataclasses.replace(rtx, name="tensorrt"), target, cache),
        EngineSet(tiny_bundle, rtx, dataclasses.replace(target, compute_capability="120"), cache),
        EngineSet(tiny_bundle, rtx, dataclasses.replace(target, cuda_driver="12080"), cache),
        EngineSet(tiny_bundle, rtx, target, cache, precision="tf32"),
        EngineSet(tiny_bundle, rtx, target, cache, workspace_bytes=1 << 30),
    ]
    keys = [other.key("decoder", 8) for other in others]
    keys += [engines.key("decoder", 9), engines.key("encoder", 8)]
    for key in keys:
        assert cache.lookup(key) is None
        with pytest.raises(InvalidInputError, match="engine of another key refused"):
            read_engine(built.path, key)
    assert engines.prepare("decoder", 8, rebuild=True).built


def test_the_mask_denoisers_engine_is_of_fp32_in_every_precision(rtx: Flavour, tiny_mask_first_bundle: Bundle) -> None:
    target = Target("89", "13000", present=False)
    engines = EngineSet(tiny_mask_first_bundle, rtx, target, precision="tf32")
    keys = [engines.key(name, 2) for name in ("mask_denoiser", "denoiser")]
    assert [(key.precision, key.tf32) for key in keys] == [("fp32", "off"), ("tf32", "on")]


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "120"])
def test_every_component_of_the_shipped_bundle_is_built(rtx: Flavour, tmp_path: Path, capability: str) -> None:
    from sbldm.engine.bundle.load import load_bundle

    try:
        bundle = load_bundle()
    except InvalidInputError as error:
        pytest.skip(str(error))
    engines = EngineSet(bundle, rtx, foreign_target(rtx, capability, None), EngineCache(tmp_path))
    for component in bundle.manifest.components:
        engine = engines.prepare(component, rows_of(component, 8, bundle.manifest))
        assert engine.built
        assert engine.figures["engine_bytes"] > 10_000
