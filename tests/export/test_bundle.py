"""Training directory to bundle: what appears, and that nothing appears when it must not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from sbldm.engine.bundle.load import Bundle, load_bundle
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.export import bundle as bundle_module
from sbldm.export.bundle import ExportOptions, export_bundle
from sbldm.export.plausibility import cohort_latents
from sbldm.export.rewrite.precision import reduce_precision
from sbldm.export.triton import write_triton_repository
from sbldm.train.checkpoint import load_system

from tests.conftest import TRACED_OPSET


def test_the_bundle_is_complete_and_passed(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    graphs = {f"{name}.onnx" for name in manifest.components} | {"denoiser.cpu.onnx"}
    assert set(manifest.files) == graphs | {"parity.json", "README.md", "checks.safetensors"}
    parity = json.loads((tiny_bundle.path / "parity.json").read_text())
    assert parity["passed"]
    assert {figure["component"] for figure in parity["components"]} == set(manifest.components)
    for name, spec in manifest.components.items():
        model = onnx.load(tiny_bundle.component_path(name))
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version == manifest.opset == TRACED_OPSET
        for tensor, value in zip([*spec.inputs, *spec.outputs], [*model.graph.input, *model.graph.output], strict=True):
            shape = tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            assert (value.name, shape) == (tensor.name, tensor.shape)
    card = (tiny_bundle.path / "README.md").read_text()
    assert manifest.intended_use in card
    assert "| denoiser |" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(opset=17), "opset 17: allowed 21..23"),
        (ExportOptions(precision="bf16", opset=21), "no bfloat16 convolutions"),
        (ExportOptions(precision="bf16", store="fp16"), "stores bf16 weights already"),
        (ExportOptions(precision="int8"), "precision 'int8'"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_options_that_do_not_fit_leave_nothing(
    tiny_checkpoint: Path, tmp_path: Path, options: ExportOptions, message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        export_bundle(tiny_checkpoint, tmp_path / "out", options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "distill" / "weights.safetensors").unlink(), "train stage 'distill' first"),
        (lambda path: (path / "distill" / "weights.safetensors").write_bytes(b"x" * 100), "cannot be read"),
        (
            lambda path: shutil.copy(
                path / "autoencoder" / "weights.safetensors", path / "distill" / "weights.safetensors"
            ),
            "does not fit",
        ),
        (lambda path: (path / "system.json").write_text('{"format_version": 99}'), "checkpoint format 99"),
        (lambda path: (path / "system.json").unlink(), "is this a training directory"),
        (lambda path: (path / "conditions.json").unlink(), r"conditions\.json"),
    ],
)
def test_broken_checkpoints_are_refused(tiny_checkpoint: Path, tmp_path: Path, damage, message: str) -> None:
    broken = Path(shutil.copytree(tiny_checkpoint, tmp_path / "broken"))
    damage(broken)
    with pytest.raises(InvalidInputError, match=message):
        export_bundle(broken, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def test_a_directory_with_files_is_left_alone(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an empty directory"):
        export_bundle(tiny_checkpoint, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("traced_once")
def test_a_failed_gate_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that was silently reduced fails the fp32 gate; the message names component and layers."""
    real = bundle_module.export_graph
    monkeypatch.setattr(bundle_module, "export_graph", lambda *arguments: reduce_precision(real(*arguments), "fp16"))
    monkeypatch.setattr(bundle_module, "write_fast_graph", lambda *_: None)  # takes float32 alone
    with pytest.raises(
        InvalidInputError, match=r"(?s)no bundle was written.*denoiser: first divergent layer between .* and "
    ):
        export_bundle(tiny_checkpoint, tmp_path / "out", ExportOptions(opset=TRACED_OPSET))
    assert not list(tmp_path.iterdir())


def test_real_latents_of_another_system_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = load_system(tiny_checkpoint)
    assert cohort_latents(tiny_checkpoint, config, 1) is None
    (tmp_path / "latents").mkdir()
    depth, shape = config.grid.shape[2], config.slice_shape
    np.save(tmp_path / "latents" / "latents.npy", np.ones((3, 2, depth, *shape), np.float16))
    found = cohort_latents(tmp_path, config, 1)
    assert found is not None
    assert found.shape == (1, depth, *shape)
    np.save(tmp_path / "latents" / "latents.npy", np.ones((3, 2, depth + 1, *shape), np.float16))
    with pytest.raises(InvalidInputError, match="does not fit the system"):
        cohort_latents(tmp_path, config, 1)


def test_triton_gets_one_model_a_component(tiny_bundle: Bundle, tmp_path: Path) -> None:
    names = write_triton_repository(tiny_bundle, tmp_path / "models", batch=4)
    assert names == ["sbldm_generate", *(f"sbldm_{name}" for name in tiny_bundle.manifest.components)]
    for component in tiny_bundle.manifest.components:
        folder = tmp_path / "models" / f"sbldm_{component}"
        assert (folder / "1" / "model.onnx").read_bytes() == tiny_bundle.component_path(component).read_bytes()
    text = (tmp_path / "models" / "sbldm_denoiser" / "config.pbtxt").read_text()
    assert 'name: "timestep"\n    data_type: TYPE_FP32\n    dims: [ 1 ]\n    reshape: { shape: [ ] }' in text
    assert "max_batch_size: 4" in text
    assert "max_batch_size: 32" in (tmp_path / "models" / "sbldm_decoder" / "config.pbtxt").read_text()
    with pytest.raises(UsageError, match="not an empty directory"):
        write_triton_repository(load_bundle(tiny_bundle.path), tmp_path / "models", batch=4)
