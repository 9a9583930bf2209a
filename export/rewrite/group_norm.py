"""GroupNormalization written out with operators that every GPU runtime has kernels for, its shapes as numbers.

ONNX's function of it computes shapes when it runs; ONNX Runtime keeps such nodes on the host.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def write_out_group_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that gives the same without GroupNormalization.

    Each becomes an InstanceNormalization of its groups, then scale and bias a channel. Nodes whose sizes are not known
    stay as they are.
    """
    sizes = _output_sizes(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        tail = sizes.get(node.output[0]) if node.op_type == "GroupNormalization" else None
        if tail is None:
            nodes.append(node)
            continue
        made, constants = _written_out(node, tail)
        nodes += made
        copy.graph.initializer.extend(constants)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def _written_out(node: onnx.NodeProto, tail: tuple[int, ...]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and constants for a GroupNormalization whose output is (batch, *tail), channels first."""
    x, scale, bias = node.input
    (y,) = node.output
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    groups = int(attributes["num_groups"])
    names = {part: f"{y}.{part}" for part in ("groups", "ones", "zeros", "whole", "channels")}
    arrays = {
        "groups": np.array([0, groups, -1], np.int64),
        "ones": np.ones(groups, np.float32),
        "zeros": np.zeros(groups, np.float32),
        "whole": np.array([0, *tail], np.int64),
        "channels": np.array([-1, *(1,) * (len(tail) - 1)], np.int64),
    }
    made = [
        helper.make_node("Reshape", [x, names["groups"]], [f"{y}.grouped"]),
        helper.make_node(
            "InstanceNormalization",
            [f"{y}.grouped", names["ones"], names["zeros"]],
            [f"{y}.even"],
            epsilon=float(attributes.get("epsilon", 1e-5)),
        ),
        helper.make_node("Reshape", [f"{y}.even", names["whole"]], [f"{y}.normal"]),
        helper.make_node("Reshape", [scale, names["channels"]], [f"{y}.scale"]),
        helper.make_node("Reshape", [bias, names["channels"]], [f"{y}.bias"]),
        helper.make_node("Mul", [f"{y}.normal", f"{y}.scale"], [f"{y}.scaled"]),
        helper.make_node("Add", [f"{y}.scaled", f"{y}.bias"], [y]),
    ]
    for number, step in enumerate(made):
        step.name = f"{node.name}/{number}"
    return made, [numpy_helper.from_array(values, names[part]) for part, values in arrays.items()]


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
