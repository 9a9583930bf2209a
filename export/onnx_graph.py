"""PyTorch module -> ONNX file: dynamic batch axis, simplified, checked with full shape inference."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

from ..engine.errors import InvalidInputError
from .components import BATCH, Component, random_inputs
from .rewrite.precision import Precision

OPSETS = range(21, 24)  # below 21 GroupNormalization is split up or, at 18, refused by TensorRT
DEFAULT_OPSET = {"fp32": 21, "fp16": 21, "bf16": 22}  # bfloat16 convolutions exist from 22 on


def check_opset(opset: int, precision: Precision) -> None:
    """Raises InvalidInputError where `opset` is not one that the engine's runtimes take at this precision."""
    if precision == "bf16" and opset == 21:
        raise InvalidInputError("opset 21 has no bfloat16 convolutions: leave --opset out or ask for 22 or 23")
    if opset not in OPSETS:
        raise InvalidInputError(
            f"opset {opset}: allowed {OPSETS.start}..{OPSETS.stop - 1} "
            "(older ones have no GroupNormalization that TensorRT takes)"
        )


def export_graph(component: Component, depth: int, opset: int) -> onnx.ModelProto:
    """The fp32 ONNX graph of one component.

    Args:
        component: module and tensors.
        depth: slices of a volume, for the example inputs.
        opset: one that `check_opset` allows.
    """
    example = random_inputs(component, batch=2, seed=0, depth=depth)
    module = component.rewrite(component.module) if component.rewrite else component.module
    axis = torch.export.Dim(BATCH, min=1, max=1 << 16)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            kwargs=example,
            dynamo=True,
            opset_version=opset,
            input_names=[spec.name for spec in component.inputs],
            output_names=[spec.name for spec in component.outputs],
            dynamic_shapes={spec.name: {0: axis} for spec in component.inputs},
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise AssertionError("torch.onnx.export(dynamo=True) returns a program")
    model = program.model_proto
    _name_nodes_after_modules(model)
    return finish(model, component)


def _name_nodes_after_modules(model: onnx.ModelProto) -> None:
    """Node names like `down.3.conv1/Conv`, so that a refusal or a departure points at a layer of the network."""
    counts: Counter[str] = Counter()
    for node in model.graph.node:
        scopes = [entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        path = [*ast.literal_eval(scopes[0])][-2] if scopes else ""
        name = f"{path}/{node.op_type}"
        counts[name] += 1
        node.name = name if counts[name] == 1 else f"{name}_{counts[name]}"


def finish(model: onnx.ModelProto, component: Component) -> onnx.ModelProto:
    """Simplify, drop what only the exporter needs, and check the graph against the component's tensors."""
    import onnxslim

    slim = onnxslim.slim(model)
    if not isinstance(slim, onnx.ModelProto):
        raise AssertionError("onnxslim returns a model where it is given one")
    slim.producer_name, slim.producer_version, slim.doc_string = "sbldm-engine", "", ""
    for node in slim.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del slim.graph.metadata_props[:], slim.graph.value_info[:], slim.metadata_props[:]
    for value, spec in zip(
        [*slim.graph.input, *slim.graph.output], [*component.inputs, *component.outputs], strict=True
    ):
        if value.name != spec.name:
            raise AssertionError(f"{component.name}: tensor {value.name} where {spec.name} belongs")
        _set_shape(value, spec.shape)
    onnx.checker.check_model(slim, full_check=True)
    return slim


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph with its weights inside the one file."""
    path.write_bytes(model.SerializeToString(deterministic=True))


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int | str, ...]) -> None:
    dims = value.type.tensor_type.shape.dim
    del dims[:]
    for size in shape:
        dim = dims.add()
        if isinstance(size, str):
            dim.dim_param = size
        else:
            dim.dim_value = size


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns of its own internals; neither is the user's business."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
