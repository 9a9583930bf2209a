"""GroupNormalization written out with operators that every GPU runtime has kernels for, its shapes as numbers.

ONNX's function of it computes shapes when it runs; ONNX Runtime keeps such nodes on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

WITHOUT_INSTANCE_NORM = 22  # the first opset whose InstanceNormalization ONNX Runtime has no CUDA kernel for

Nodes: TypeAlias = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]
Steps: TypeAlias = tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]
Normalised: TypeAlias = Callable[[str, str, int, float], Steps]


def write_out_group_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that gives the same without GroupNormalization.

    Each becomes an InstanceNormalization of its groups, then scale and bias a channel. From opset 22 on, of which ONNX
    Runtime has no InstanceNormalization for CUDA (up to 1.31), it is written out too. Nodes whose sizes are not known
    stay as they are.
    """
    sizes = _output_sizes(model)
    (opset,) = (known.version for known in model.opset_import if not known.domain)
    normalised = _normalised if opset < WITHOUT_INSTANCE_NORM else _normalised_by_means
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        tail = sizes.get(node.output[0]) if node.op_type == "GroupNormalization" else None
        if tail is None:
            nodes.append(node)
            continue
        made, constants = _written_out(node, tail, normalised)
        nodes += made
        copy.graph.initializer.extend(constants)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def _written_out(node: onnx.NodeProto, tail: tuple[int, ...], normalised: Normalised) -> Nodes:
    """Nodes and constants for a GroupNormalization whose output is (batch, *tail), channels first."""
    x, scale, bias = node.input
    (y,) = node.output
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    groups = int(attributes["num_groups"])
    steps, arrays = normalised(f"{y}.grouped", f"{y}.even", groups, float(attributes.get("epsilon", 1e-5)))
    arrays |= {
        f"{y}.groups": np.array([0, groups, -1], np.int64),
        f"{y}.whole": np.array([0, *tail], np.int64),
        f"{y}.channels": np.array([-1, *(1,) * (len(tail) - 1)], np.int64),
    }
    made = [
        helper.make_node("Reshape", [x, f"{y}.groups"], [f"{y}.grouped"]),
        *steps,
        helper.make_node("Reshape", [f"{y}.even", f"{y}.whole"], [f"{y}.normal"]),
        helper.make_node("Reshape", [scale, f"{y}.channels"], [f"{y}.scale"]),
        helper.make_node("Reshape", [bias, f"{y}.channels"], [f"{y}.bias"]),
        helper.make_node("Mul", [f"{y}.normal", f"{y}.scale"], [f"{y}.scaled"]),
        helper.make_node("Add", [f"{y}.scaled", f"{y}.bias"], [y]),
    ]
    for number, step in enumerate(made):
        step.name = f"{node.name}/{number}"
    return made, [numpy_helper.from_array(values, name) for name, values in arrays.items()]


def _normalised(x: str, y: str, groups: int, epsilon: float) -> Steps:
    """Nodes that bring each group of x (batch, groups, n) to mean 0 and variance 1, and their constants by name."""
    arrays = {f"{y}.ones": np.ones(groups, np.float32), f"{y}.zeros": np.zeros(groups, np.float32)}
    return [helper.make_node("InstanceNormalization", [x, *arrays], [y], epsilon=epsilon)], arrays


def _normalised_by_means(x: str, y: str, groups: int, epsilon: float) -> Steps:
    """The same by plain arithmetic."""
    axes, least = f"{y}.axes", f"{y}.epsilon"
    nodes = [
        helper.make_node("ReduceMean", [x, axes], [f"{y}.mean"]),
        helper.make_node("Sub", [x, f"{y}.mean"], [f"{y}.centred"]),
        helper.make_node("Mul", [f"{y}.centred", f"{y}.centred"], [f"{y}.squares"]),
        helper.make_node("ReduceMean", [f"{y}.squares", axes], [f"{y}.variance"]),
        helper.make_node("Add", [f"{y}.variance", least], [f"{y}.raised"]),
        helper.make_node("Sqrt", [f"{y}.raised"], [f"{y}.deviation"]),
        helper.make_node("Div", [f"{y}.centred", f"{y}.deviation"], [y]),
    ]
    return nodes, {axes: np.array([2], np.int64), least: np.array(epsilon, np.float32)}


def _output_sizes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Sizes beyond the batch axis of every tensor that has them fixed; GroupNormalization passes sizes through."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.op_type == "GroupNormalization":
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
    inferred = onnx.shape_inference.infer_shapes(plain, data_prop=True)
    found = {}
    for value in inferred.graph.value_info:
        tail = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim[1:]]
        if tail and all(tail):
            found[value.name] = tuple(tail)
    return found
