"""How many multiply-adds a component's graph takes, counted from the graph and the shapes that really flow in it."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COUNTED = ("Conv", "MatMul", "Gemm")


def count_macs(path: Path, inputs: Mapping[str, NDArray[Any]]) -> int | None:
    """Multiply-adds of convolutions and matrix products of one run on `inputs`; None where `onnx` is not installed."""
    try:
        import onnx
    except ImportError:
        return None
    import onnxruntime

    model = onnx.load(path)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {name: array.shape for name, array in inputs.items()}
    counted = [node for node in model.graph.node if node.op_type in COUNTED]
    if not counted:
        return 0
    wanted = sorted({name for node in counted for name in (*node.input[:2], node.output[0])} - shapes.keys())
    present = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in present)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = session.run(wanted, dict(inputs))
    shapes |= {name: np.asarray(array).shape for name, array in zip(wanted, arrays, strict=True)}
    return sum(_macs(node, shapes) for node in counted)


def _macs(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """An element of the output takes as many multiply-adds as the weights of its channel, or the inner length, has."""
    outputs = prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return outputs * prod(shapes[node.input[1]][1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return outputs * shapes[node.input[0]][0 if transposed else -1]
