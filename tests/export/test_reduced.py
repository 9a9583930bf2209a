"""Graphs in 16 bits beside the fp32 ones: what the gate lets through, and what it must not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from sbldm.engine.backends.choose import choose_backend, gpu_precision
from sbldm.engine.backends.tensorrt.build import BuildRequest, build_engine, load_flavour
from sbldm.engine.bundle.checks import CHECKS_NAME, check_faults, check_inputs, reference_elements
from sbldm.engine.bundle.load import Bundle, load_bundle
from sbldm.engine.bundle.onnx_scan import check_onnx_file
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.export.bundle import ExportOptions, export_bundle
from sbldm.export.gate import GateInputs, fault_table, run_gate
from sbldm.export.onnx_graph import save
from sbldm.export.parity import RMS_LIMIT, check_component
from sbldm.export.rewrite.group_norm import write_out_group_norm
from sbldm.export.rewrite.precision import Precision, reduce_precision, store_weights_as_fp16
from sbldm.export.rewrite.winograd import save_beside
from sbldm.export.runners import OnnxRunner, emulate_reduced

from tests.conftest import TRACED_OPSET
from tests.export.conftest import ExportedPreset
from tests.export.test_graphs import arrays

CPU = ["CPUExecutionProvider"]


@pytest.mark.slow
@pytest.mark.usefixtures("traced_once")
def test_fp16_lies_beside_fp32_with_figures_of_its_own(tiny_checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_bundle(tiny_checkpoint, tmp_path / "out", ExportOptions(precision="fp16", opset=TRACED_OPSET))
    assert (bundle.manifest.precision, bundle.precisions) == ("fp32", ("fp32", "fp16"))
    for name in bundle.manifest.components:
        low = onnx.load(bundle.component_path(name, "fp16"))
        assert not {"GroupNormalization", "Shape"} & frozen_operators(low, tmp_path / "frozen.onnx")
        if name in ("denoiser", "decoder"):
            kinds = {tensor.data_type for tensor in low.graph.initializer}
            assert onnx.TensorProto.FLOAT16 in kinds
    parity = json.loads((bundle.path / "parity.json").read_bytes())
    assert parity["passed"]
    assert parity["reduced"]["fp16"]["passed"]
    assert parity["reduced"]["fp16"]["volume"]["psnr_db"] is not None
    assert gpu_precision(bundle, "auto", "tensorrt") == "fp16"
    assert gpu_precision(bundle, "tf32", "tensorrt") == "tf32"
    with pytest.raises(UsageError, match="holds fp32, fp16, tf32 for onnxruntime on a GPU"):
        gpu_precision(bundle, "bf16", "onnxruntime")
    assert choose_backend(bundle, threads=1).precision == "fp32"  # a CPU is no faster in 16 bits
    (bundle.path / "denoiser.fp16.onnx").write_bytes(b"x")
    with pytest.raises(InvalidInputError, match=r"denoiser\.fp16\.onnx"):
        load_bundle(bundle.path)


def frozen_operators(model: onnx.ModelProto, path: Path) -> set[str]:
    """What is left to compute once the batch axis is known, as for a session on a GPU."""
    options = ort.SessionOptions()
    options.add_free_dimension_override_by_name("batch", 2)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(model.SerializeToString(), options, providers=CPU)
    return {node.op_type for node in onnx.load(path).graph.node}


def test_a_bundle_keeps_what_its_check_inputs_must_give(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The file's elements are PyTorch's; without the file ONNX Runtime computes the same here."""
    import dataclasses

    assert CHECKS_NAME in tiny_bundle.manifest.files
    manifest = tiny_bundle.manifest
    files = {name: record for name, record in manifest.files.items() if name != CHECKS_NAME}
    without = dataclasses.replace(tiny_bundle, manifest=dataclasses.replace(manifest, files=files))
    for name, spec in manifest.components.items():
        kept, computed = reference_elements(tiny_bundle, name), reference_elements(without, name)
        for output, values in kept.items():
            np.testing.assert_allclose(values, computed[output], rtol=0, atol=1e-4 * np.abs(values).max())
        session = ort.InferenceSession(str(tiny_bundle.component_path(name)), providers=CPU)
        names = [value.name for value in session.get_outputs()]
        made = dict(zip(names, session.run(None, check_inputs(spec, 5)), strict=True))
        worst, faults = check_faults(made, kept, 1e-4)
        assert worst < 1e-4
        assert not faults


def poisoned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Values behind the first fp16 convolution are scaled by others, far beyond fp16's range and back."""
    bad = onnx.ModelProto()
    bad.CopyFrom(model)
    low = {t.name: list(t.dims) for t in bad.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
    first = next(node for node in bad.graph.node if node.op_type == "Conv" and node.input[1] in low)
    channels, rank = low[first.input[1]][0], len(low[first.input[1]])
    place = list(bad.graph.node).index(first) + 1
    (real,) = first.output
    names = [f"{real}.raw", *(f"{real}.{step}" for step in "abc"), real]
    first.output[0] = names[0]
    for step, factor in enumerate((3e4, 3e4, 1 / 3e4, 1 / 3e4)):
        weight = np.full((channels, *(1,) * (rank - 1)), factor, np.float16)
        bad.graph.initializer.append(numpy_helper.from_array(weight, f"{real}.weight{step}"))
        inputs, outputs = [names[step], f"{real}.weight{step}"], [names[step + 1]]
        node = helper.make_node("Conv", inputs, outputs, name=f"{real}/{step}", group=channels)
        bad.graph.node.insert(place + step, node)
    return bad


@pytest.mark.parametrize("exported", ["phantom"], indirect=True)
def test_a_graph_that_overflows_inside_is_refused_though_onnx_runtime_on_a_cpu_sees_nothing(
    exported: ExportedPreset,
) -> None:
    component = exported.components["denoiser"]
    good = reduce_precision(exported.models["denoiser"], "fp16")
    bad, inputs = poisoned(good), arrays(exported, "denoiser", 1)
    cases = {"random": inputs}
    (figure,) = check_component(
        component, exported.networks.run, OnnxRunner({"denoiser": good}).run, cases, RMS_LIMIT["fp16"]
    )
    assert figure.fault is None
    (figure,) = check_component(
        component, exported.networks.run, OnnxRunner({"denoiser": bad}).run, cases, RMS_LIMIT["fp16"]
    )
    assert figure.fault is not None
    assert "NaN" in figure.fault or "Inf" in figure.fault
    inside = next(node.output[0] for node in bad.graph.node if node.name.endswith("/1"))
    watched = emulate_reduced(bad)
    watched.graph.output.append(onnx.ValueInfoProto(name=inside))
    values = ort.InferenceSession(watched.SerializeToString(), providers=CPU).run([inside], inputs)[0]
    assert np.isinf(values).mean() > 0.5
    plain = ort.InferenceSession(bad.SerializeToString(), providers=CPU).run(None, inputs)[0]
    assert np.isfinite(plain).all()  # why the gate may not ask it


@pytest.mark.parametrize("exported", ["phantom"], indirect=True)
@pytest.mark.parametrize(("precision", "largest"), [("fp16", 0.6), ("bf16", 0.95)])
def test_weights_lie_once_where_both_graphs_have_the_same(
    exported: ExportedPreset, tmp_path: Path, precision: Precision, largest: float
) -> None:
    """All of fp16 beside weights that are stored so; of bf16 those that stay in fp32. TensorRT finds them, too."""
    plain = onnx.ModelProto()
    plain.CopyFrom(write_out_group_norm(exported.models["denoiser"]))
    if precision == "fp16":
        for tensor in plain.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype == np.float32:
                tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16).astype(np.float32), tensor.name))
    low, stored = reduce_precision(plain, precision), plain if precision == "bf16" else store_weights_as_fp16(plain)
    save(stored, tmp_path / "denoiser.onnx")
    save(low, tmp_path / "alone.onnx")
    beside = tmp_path / f"denoiser.{precision}.onnx"
    save_beside(low, beside, tmp_path / "denoiser.onnx")
    check_onnx_file(beside)
    assert beside.stat().st_size < largest * (tmp_path / "alone.onnx").stat().st_size
    read = [onnx.load(tmp_path / name) for name in ("alone.onnx", beside.name)]
    for mine, shared in zip(*(model.graph.initializer for model in read), strict=True):
        assert (mine.name, mine.raw_data) == (shared.name, shared.raw_data)
    if precision == "fp16":
        pytest.importorskip("tensorrt_rtx")
        flavour = load_flavour("tensorrt_rtx")
        alone, shared = (
            build_engine(flavour, BuildRequest(tmp_path / name, 1, "89"))[0] for name in ("alone.onnx", beside.name)
        )
        assert len(alone) == len(shared)


def test_an_engine_is_of_the_weights_too_that_its_graph_reads_from_another(tiny_bundle: Bundle) -> None:
    import dataclasses

    files = dict(tiny_bundle.manifest.files)
    files["denoiser.fp16.onnx"] = files["decoder.onnx"]

    def sha256(plain: str, precision: str) -> str:
        changed = files | {"denoiser.onnx": dataclasses.replace(files["denoiser.onnx"], sha256=plain)}
        manifest = dataclasses.replace(tiny_bundle.manifest, files=changed)
        return dataclasses.replace(tiny_bundle, manifest=manifest).component_sha256("denoiser", precision)

    assert sha256("a" * 64, "fp32") == "a" * 64
    assert len({sha256("a" * 64, "fp16"), sha256("b" * 64, "fp16"), files["decoder.onnx"].sha256}) == 3


@pytest.mark.parametrize(("opset", "made_of"), [(21, "InstanceNormalization"), (22, "ReduceMean")])
@pytest.mark.parametrize("exported", ["phantom"], indirect=True)
def test_normalisations_are_written_out_and_give_the_same(exported: ExportedPreset, opset: int, made_of: str) -> None:
    """With an InstanceNormalization that ONNX Runtime has a CUDA kernel of, or without any."""
    seen = 0
    for name, traced in exported.models.items():
        model = onnx.ModelProto()
        model.CopyFrom(traced)
        model.opset_import[0].version = opset
        plain = write_out_group_norm(model)
        kinds = [node.op_type for node in plain.graph.node]
        seen += kinds.count(made_of)
        assert made_of == "InstanceNormalization" or "InstanceNormalization" not in kinds
        assert "GroupNormalization" not in kinds
        inputs = arrays(exported, name, 2)
        expected, got = (
            ort.InferenceSession(each.SerializeToString(), providers=CPU).run(None, inputs) for each in (model, plain)
        )
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * max(1.0, float(np.abs(a).max())))
    assert seen > 3


@pytest.mark.parametrize("exported", ["glioma"], indirect=True)
def test_the_mask_denoiser_is_held_to_fp32_in_the_gate_of_16_bits(exported: ExportedPreset) -> None:
    low = exported.models | {"mask_denoiser": reduce_precision(exported.models["mask_denoiser"], "fp16")}
    inputs = GateInputs(exported.config, exported.manifest, None)
    report = run_gate(exported.components, low, inputs, "fp16", lambda _message: None)
    assert set(report.divergences) == {"mask_denoiser"}
    assert "over 1e-04" in fault_table(report)
