"""A bundle as a model repository of NVIDIA Triton Inference Server: the whole generation, and each component."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from ..engine.bundle.load import Bundle
from ..engine.bundle.manifest import MANIFEST_NAME, SIGNATURE_NAME, ComponentSpec, Form, TensorSpec
from ..engine.errors import InvalidInputError
from .staging import staged_directory

GENERATION = "sbldm_generate"
TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}
ROWS_A_VOLUME: Mapping[Form, int] = {"slices": 8, "mask-first": 4}  # of encoder and decoder, for each of the batch
SLICE_COMPONENTS = frozenset({"encoder", "decoder"})  # their batches are slices, or slabs of slices


def write_triton_repository(bundle: Bundle, out: Path, batch: int) -> list[str]:
    """Write the whole generation as one model, `sbldm_generate` (Python backend), and one model a component.

    A component lies in `sbldm_NAME/config.pbtxt` and `sbldm_NAME/1/model.onnx`, the generation in
    `sbldm_generate/1/model.py` with the bundle beside it.

    Args:
        bundle: verified bundle.
        out: repository directory to make; must not exist or be empty.
        batch: largest batch of volumes that the server may form of components.

    Returns:
        Names of the models.

    Raises:
        InvalidInputError: the bundle is bf16, which Triton's ONNX Runtime backend cannot compute on every device.
        UsageError: `out` holds files or cannot be written.
    """
    if bundle.manifest.precision == "bf16":
        raise InvalidInputError("Triton's ONNX Runtime has no bf16 convolutions on the CPU: export fp32 or fp16 for it")
    names = [GENERATION]
    with staged_directory(out) as staging:
        version = staging / GENERATION / "1"
        version.mkdir(parents=True)
        shutil.copyfile(Path(__file__).with_name("triton_model.py"), version / "model.py")
        signature = (SIGNATURE_NAME,) if (bundle.path / SIGNATURE_NAME).is_file() else ()
        for file in (MANIFEST_NAME, *signature, *bundle.manifest.files):
            target = version / "bundle" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / file, target)
        (staging / GENERATION / "config.pbtxt").write_text(generation_config(bundle), encoding="utf-8")
        for component, spec in bundle.manifest.components.items():
            name = f"sbldm_{component}"
            largest = batch * (ROWS_A_VOLUME[bundle.manifest.form] if component in SLICE_COMPONENTS else 1)
            (staging / name / "1").mkdir(parents=True)
            shutil.copyfile(bundle.component_path(component), staging / name / "1" / "model.onnx")
            (staging / name / "config.pbtxt").write_text(model_config(name, spec, largest), encoding="utf-8")
            names.append(name)
    return names


def generation_config(bundle: Bundle) -> str:
    """The text of `sbldm_generate/config.pbtxt`: one request is one sample."""
    manifest = bundle.manifest
    volume = ", ".join(map(str, manifest.grid.shape))
    inputs = [("condition", "TYPE_STRING", "1"), ("seed", "TYPE_INT64", "1"), ("sample", "TYPE_INT64", "1")]
    outputs = [(name, "TYPE_INT16", volume) for name in manifest.modalities]
    outputs += [("mask", "TYPE_UINT8", volume), ("measured", "TYPE_STRING", "1")]
    tensors = (
        f"{kind} [\n"
        + ",\n".join(f'  {{ name: "{name}" data_type: {dtype} dims: [ {dims} ] }}' for name, dtype, dims in specs)
        + "\n]\n"
        for kind, specs in (("input", inputs), ("output", outputs))
    )
    parameters = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "auto" }} }}\n' for key in ("backend", "precision")
    )
    return (
        f'name: "{GENERATION}"\nbackend: "python"\nmax_batch_size: 0\n{"".join(tensors)}{parameters}'
        "instance_group [ { kind: KIND_AUTO } ]\n"
    )


def model_config(name: str, spec: ComponentSpec, largest_batch: int) -> str:
    """The text of a `config.pbtxt` (protobuf text form of Triton's ModelConfig)."""
    return (
        f'name: "{name}"\nbackend: "onnxruntime"\nmax_batch_size: {largest_batch}\n'
        f"{_tensors('input', spec.inputs)}{_tensors('output', spec.outputs)}"
        "dynamic_batching { }\n"
    )


def _tensors(kind: str, specs: tuple[TensorSpec, ...]) -> str:
    return f"{kind} [\n" + ",\n".join(_tensor(spec) for spec in specs) + "\n]\n"


def _tensor(spec: TensorSpec) -> str:
    tail = [str(size) for size in spec.shape[1:]]
    # the batch axis is implied; a tensor that has no other axis needs one to send, which Triton then removes
    shape = f"dims: [ {', '.join(tail)} ]" if tail else "dims: [ 1 ]\n    reshape: { shape: [ ] }"
    return f'  {{\n    name: "{spec.name}"\n    data_type: {TYPES[spec.dtype]}\n    {shape}\n  }}'
