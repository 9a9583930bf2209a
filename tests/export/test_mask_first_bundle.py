"""A training directory of the mask-first form into a bundle, and what must not become one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle, load_bundle
from sbldm.engine.bundle.report import report_text
from sbldm.engine.errors import InvalidInputError
from sbldm.export import bundle as bundle_module
from sbldm.export import parity as parity_module
from sbldm.export.bundle import ExportOptions, export_bundle
from sbldm.export.mask_first_cases import ball_label
from sbldm.export.plausibility import decodable_latents, latent_faults
from sbldm.export.triton import write_triton_repository
from sbldm.train.checkpoint import load_system, read_tensors
from sbldm.train.config import MaskFirstConfig
from sbldm.train.mask_first import load_mask_first

from tests.conftest import TRACED_OPSET


def test_the_bundle_is_complete_and_passed(tiny_mask_first_bundle: Bundle) -> None:
    manifest = tiny_mask_first_bundle.manifest
    graphs = {f"{name}.onnx" for name in manifest.components}
    beside = {"parity.json", "README.md", "checks.safetensors"}
    assert set(manifest.files) == graphs | beside  # no graph for 3D convolutions
    parity = json.loads((tiny_mask_first_bundle.path / "parity.json").read_text())
    assert parity["passed"]
    assert {figure["component"] for figure in parity["components"]} == set(manifest.components)
    assert "maps after 20 steps" in {figure["case"] for figure in parity["components"]}
    assert set(parity["volume"]["dice"]) == {*manifest.labels, "brain"}
    for name, spec in manifest.components.items():
        model = onnx.load(tiny_mask_first_bundle.component_path(name))
        for tensor, value in zip([*spec.inputs, *spec.outputs], [*model.graph.input, *model.graph.output], strict=True):
            shape = tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            assert (value.name, shape) == (tensor.name, tensor.shape)
    card = (tiny_mask_first_bundle.path / "README.md").read_text()
    assert "The mask comes first (ddim, 20 steps, eta 0, guidance 1)" in card
    assert "drawn as real scans" in card
    assert "images    drawn as real scans, 4 slices a slab" in report_text(tiny_mask_first_bundle)


@pytest.mark.usefixtures("traced_once")
def test_drawn_as_phantoms(tiny_mask_first_checkpoint: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", str(tiny_mask_first_checkpoint), "--out", str(tmp_path / "out")]
    assert (
        main(["export", *options, "--opset", str(TRACED_OPSET), "--source", "phantom", "--licence", "CC BY-SA 4.0"])
        == 0
    )
    made = load_bundle(tmp_path / "out")
    assert made.manifest.mask_first is not None
    assert made.manifest.mask_first.source == 0.0
    assert made.manifest.provenance.licence == "CC BY-SA 4.0"
    assert "drawn as phantoms" in (made.path / "README.md").read_text()


def test_weights_rounded_to_fp16_change_every_component_little(tiny_mask_first_checkpoint: Path) -> None:
    config = load_system(tiny_mask_first_checkpoint)
    components, figures = bundle_module._rounded(
        config, bundle_module.system_networks(tiny_mask_first_checkpoint, config)
    )
    rounding = {figure.component: figure.rms_relative for figure in figures}
    assert set(rounding) == set(components)
    assert 1e-5 < max(rounding.values()) < 2e-3  # fp16 keeps 11 bits


def test_another_source_is_refused(tiny_mask_first_checkpoint: Path, tmp_path: Path) -> None:
    options = ["--checkpoint", str(tiny_mask_first_checkpoint), "--out", str(tmp_path / "out"), "--source", "painted"]
    assert main(["export", *options]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("poisoned", ["mask_denoiser", "decoder"])
def test_a_poisoned_component_leaves_nothing(
    tiny_mask_first_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poisoned: str
) -> None:
    real = bundle_module.export_graph

    def wrong(component, depth, opset):
        model = real(component, depth, opset)
        if component.name == poisoned:
            kernels = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
            weight = max(kernels, key=lambda tensor: int(np.prod(tensor.dims)))
            weight.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(weight), weight.name))
        return model

    monkeypatch.setattr(bundle_module, "export_graph", wrong)
    with pytest.raises(InvalidInputError, match=rf"(?s)no bundle was written.*{poisoned}: .*RMS"):
        export_bundle(tiny_mask_first_checkpoint, tmp_path / "out", ExportOptions(opset=TRACED_OPSET, force=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "mask" / "weights.safetensors").unlink(), "train stage 'mask' first"),
        (lambda path: (path / "masks" / "maps.json").unlink(), r"maps\.json"),
        (lambda path: (path / "latents" / "normalisation.safetensors").unlink(), "cannot be read"),
        (
            lambda path: shutil.copy(path / "mask" / "weights.safetensors", path / "denoiser" / "weights.safetensors"),
            "does not fit",
        ),
    ],
)
@pytest.mark.usefixtures("traced_once")
def test_broken_directories_are_refused(tiny_mask_first_checkpoint: Path, tmp_path: Path, damage, message: str) -> None:
    broken = Path(shutil.copytree(tiny_mask_first_checkpoint, tmp_path / "broken"))
    damage(broken)
    with pytest.raises(InvalidInputError, match=message):
        export_bundle(broken, tmp_path / "out", ExportOptions(opset=TRACED_OPSET))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def stored_latents(checkpoint: Path, folder: Path, deviation: float) -> tuple[Path, MaskFirstConfig]:
    """A copy of a training directory whose cohort has this deviation under the stored normalisation."""
    made = Path(shutil.copytree(checkpoint, folder / "trained"))
    config = load_system(made)
    assert isinstance(config, MaskFirstConfig)
    found = read_tensors(made / "latents" / "normalisation.safetensors")
    unit = np.random.default_rng(0).standard_normal((5, 2, *config.latent_shape))
    latents = deviation * unit * found["scale"].numpy() + found["mean"].numpy()
    np.save(made / "latents" / "latents.npy", latents.astype(np.float16))
    return made, config


@pytest.mark.parametrize(("deviation", "faults"), [(1.0, 0), (3.0, 8)])
def test_latents_are_held_to_the_stored_normalisation(
    tiny_mask_first_checkpoint: Path, tmp_path: Path, deviation: float, faults: int
) -> None:
    made, config = stored_latents(tiny_mask_first_checkpoint, tmp_path, deviation)
    found = latent_faults(made, config, load_mask_first(made, config))
    assert len(found) == faults
    told = [float(fault.split("has deviation ")[1].split()[0]) for fault in found]
    assert told == pytest.approx([deviation] * faults, rel=0.1)
    normalised = decodable_latents(made, config, 5)
    assert normalised is not None
    assert normalised.shape == (5, *config.latent_shape)
    assert float(normalised.std()) == pytest.approx(deviation, rel=0.02)


def test_latents_of_another_system_are_refused(tiny_mask_first_checkpoint: Path, tmp_path: Path) -> None:
    made, config = stored_latents(tiny_mask_first_checkpoint, tmp_path, 1.0)
    slabs = dataclasses.replace(config.autoencoder, slices=8)
    with pytest.raises(InvalidInputError, match="does not fit the system"):
        decodable_latents(made, dataclasses.replace(config, autoencoder=slabs), 1)


def test_the_ball_of_the_gate_holds_every_tissue(tiny_mask_first_bundle: Bundle) -> None:
    label = ball_label(tiny_mask_first_bundle.manifest.grid)
    counts = np.bincount(label.ravel(), minlength=4)
    assert (counts[1:] > 0).all()
    assert counts[0] > counts[1:].sum()


def test_triton_batches_slabs(tiny_mask_first_bundle: Bundle, tmp_path: Path) -> None:
    write_triton_repository(tiny_mask_first_bundle, tmp_path / "models", batch=4)
    texts = {
        name: (tmp_path / "models" / f"sbldm_{name}" / "config.pbtxt").read_text()
        for name in ("decoder", "denoiser", "mask_denoiser")
    }
    assert "max_batch_size: 16" in texts["decoder"]
    assert "max_batch_size: 4" in texts["mask_denoiser"]
    assert 'name: "tissues"\n    data_type: TYPE_FP32\n    dims: [ 3, 16, 32, 32 ]' in texts["denoiser"]


@pytest.mark.usefixtures("traced_once")
def test_the_mask_denoiser_stays_in_fp32(
    tiny_mask_first_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No graph of it in 16 bits is written, asked for, or missed."""
    monkeypatch.setitem(parity_module.PSNR_LIMIT_DB, "fp16", 30.0)  # networks of random weights have 39.4
    options = ExportOptions(precision="fp16", opset=TRACED_OPSET)
    bundle = export_bundle(tiny_mask_first_checkpoint, tmp_path / "out", options)
    assert bundle.precisions == ("fp32", "fp16")
    beside = {name for name in bundle.manifest.components if bundle.component_file(name, "fp16").endswith(".fp16.onnx")}
    assert beside == set(bundle.manifest.components) - {"mask_denoiser"}
    assert not [name for name in bundle.manifest.files if name.startswith("mask_denoiser.") and "16" in name]
    parity = json.loads((bundle.path / "parity.json").read_text())
    rms = {figure["component"]: figure["rms_relative"] for figure in parity["reduced"]["fp16"]["components"]}
    assert rms["mask_denoiser"] < 1e-5
    assert rms["denoiser"] > 1e-4
