"""A bundle's components as a model repository of NVIDIA Triton Inference Server (ONNX Runtime backend)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from ..engine.bundle.load import Bundle
from ..engine.bundle.manifest import ComponentSpec, Form, TensorSpec
from ..engine.errors import InvalidInputError
from .staging import staged_directory

TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}
ROWS_A_VOLUME: Mapping[Form, int] = {"slices": 8, "mask-first": 4}  # of encoder and decoder, for each of the batch
SLICE_COMPONENTS = frozenset({"encoder", "decoder"})  # their batches are slices, or slabs of slices


def write_triton_repository(bundle: Bundle, out: Path, batch: int) -> list[str]:
    """Write one Triton model a component: `sbldm_NAME/config.pbtxt` and `sbldm_NAME/1/model.onnx`.

    Args:
        bundle: verified bundle.
        out: repository directory to make; must not exist or be empty.
        batch: largest batch of volumes that the server may form.

    Returns:
        Names of the models.

    Raises:
        InvalidInputError: the bundle is bf16, which Triton's ONNX Runtime backend cannot compute on every device.
        UsageError: `out` holds files or cannot be written.
    """
    if bundle.manifest.precision == "bf16":
        raise InvalidInputError("Triton's ONNX Runtime has no bf16 convolutions on the CPU: export fp32 or fp16 for it")
    names = []
    with staged_directory(out) as staging:
        for component, spec in bundle.manifest.components.items():
            name = f"sbldm_{component}"
            largest = batch * (ROWS_A_VOLUME[bundle.manifest.form] if component in SLICE_COMPONENTS else 1)
            (staging / name / "1").mkdir(parents=True)
            shutil.copyfile(bundle.component_path(component), staging / name / "1" / "model.onnx")
            (staging / name / "config.pbtxt").write_text(model_config(name, spec, largest), encoding="utf-8")
            names.append(name)
    return names


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
