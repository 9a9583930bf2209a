"""Precision inside the graph: a strongly typed fp16 or bf16 graph, or an fp32 graph whose weights are stored as fp16.

Convolutions and matrix products run in the reduced type; what only moves or adds their results follows them;
normalisation, softmax, everything else, the inputs and the outputs stay in fp32.

bfloat16 has 8 bits, too few for what goes straight through a residual network: on latents of real cases the denoiser
departed by up to 3e-2. There the first and the last layer, 1x1 convolutions (the skips) and sums stay in fp32 too; the
layers beside them, nearly all of the arithmetic, are bfloat16. Depth to space stays in fp32 with them: ONNX Runtime has
no kernel of it for bfloat16.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...engine.errors import InvalidInputError

Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
ELEMENT_TYPE = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST = {"fp16": 65504.0, "bf16": 3.3895e38}

COMPUTE_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FOLLOWING_OPS = frozenset(
    {"Add", "Concat", "DepthToSpace", "Identity", "Mul", "Reshape", "Resize", "Sigmoid", "Slice", "SpaceToDepth"}
    | {"Split", "Squeeze", "Transpose", "Unsqueeze"}
)
NOT_IN_BF16 = frozenset({"DepthToSpace", "SpaceToDepth"})  # of which ONNX Runtime has no kernel
INTEGER_OPS = frozenset({"And", "ArgMax", "Equal", "Greater", "Less", "Not", "Or", "Shape", "Size"})  # or truth values
STORED_AS_FP16_FROM = 1024  # elements; smaller tensors stay as they are


def reduce_precision(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """A copy of an fp32 graph that computes in `precision`; node names, inputs and outputs stay.

    Raises:
        InvalidInputError: a weight does not fit the range of the type.
    """
    if precision == "fp32":
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _Reducer(copy.graph, precision).run()
    onnx.checker.check_model(copy, full_check=True)
    return copy


class _Reducer:
    """Walks the nodes in order and keeps, for each float tensor, the names under which it exists in either type."""

    def __init__(self, graph: onnx.GraphProto, precision: Precision) -> None:
        self.graph, self.precision, self.low_type = graph, precision, ELEMENT_TYPE[precision]
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.floats = float_tensors(graph)
        self.high = {name: name for name in self.floats}  # tensor -> its fp32 name
        self.low: dict[str, str] = {}  # tensor -> its reduced name
        self.nodes: list[onnx.NodeProto] = []
        self.straight = _straight_path(graph) if precision == "bf16" else frozenset[str]()  # outputs of nodes

    def run(self) -> None:
        outputs = {value.name for value in self.graph.output}
        for node in self.graph.node:
            low = self._runs_low(node)
            for index, name in enumerate(node.input):
                if name in self.floats and not self._is_resize_setting(node, index):
                    node.input[index] = self._in_low(name) if low else self._in_high(name)
            results = [name for name in node.output if name in self.floats] if low else []
            for index, name in enumerate(node.output):
                if name in results:
                    node.output[index] = self.low[name] = f"{name}.{self.precision}"
                    del self.high[name]
            self.nodes.append(node)
            for name in outputs.intersection(results):
                self._in_high(name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _runs_low(self, node: onnx.NodeProto) -> bool:
        if node.output[0] in self.straight:
            return False
        if node.op_type in COMPUTE_OPS:
            return True
        if node.op_type not in FOLLOWING_OPS or (self.precision == "bf16" and node.op_type in NOT_IN_BF16):
            return False
        moving = [name for name in node.input if name in self.floats and name not in self.constants]
        return bool(moving) and all(name in self.low for name in moving)

    @staticmethod
    def _is_resize_setting(node: onnx.NodeProto, index: int) -> bool:
        return node.op_type == "Resize" and index > 0  # roi and scales are fp32 by definition

    def _in_low(self, name: str) -> str:
        if name not in self.low:
            self.low[name] = f"{name}.{self.precision}"
            if name in self.constants:
                self.graph.initializer.append(self._reduced_constant(name))
            else:
                self._cast(self.high[name], self.low[name], self.low_type)
        return self.low[name]

    def _in_high(self, name: str) -> str:
        if name not in self.high:
            self.high[name] = name
            self._cast(self.low[name], name, TensorProto.FLOAT)
        return self.high[name]

    def _cast(self, source: str, target: str, element_type: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}/Cast", to=element_type))

    def _reduced_constant(self, name: str) -> onnx.TensorProto:
        values = numpy_helper.to_array(self.constants[name])
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= LARGEST[self.precision]:
            raise InvalidInputError(f"weight {name} reaches {largest:g}, beyond {self.precision}; export it as fp32")
        reduced = values.astype(helper.tensor_dtype_to_np_dtype(self.low_type))
        return numpy_helper.from_array(reduced, self.low[name])


def _straight_path(graph: onnx.GraphProto) -> frozenset[str]:
    """Outputs of the nodes on the way past the layers of a residual network: sums, 1x1 convolutions, first and last."""
    kept: set[str] = set()
    constants = {tensor.name for tensor in graph.initializer}
    untouched = constants | {value.name for value in graph.input}  # no layer before them
    for node in graph.node:
        first = all(name in untouched for name in node.input if name)  # an input left out has no name
        if node.op_type == "Add" or (node.op_type == "Conv" and _is_pointwise(node)):
            kept.add(node.output[0])
        if first and node.op_type in COMPUTE_OPS:
            kept.add(node.output[0])
        elif first:
            untouched.update(node.output)
    following = {value.name for value in graph.output}  # no layer behind them
    for node in reversed(graph.node):
        if not following.isdisjoint(node.output):
            if node.op_type in COMPUTE_OPS:
                kept.add(node.output[0])
            else:
                following.update(node.input)
    return frozenset(kept)


def _is_pointwise(node: onnx.NodeProto) -> bool:
    return any(a.name == "kernel_shape" and set(a.ints) == {1} for a in node.attribute)


def float_tensors(graph: onnx.GraphProto) -> set[str]:
    """Names of a graph's fp32 tensors. (ONNX's own inference gives up at GroupNormalization, a function.)"""
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Cast":
            kind = attributes["to"].i
        elif node.op_type in INTEGER_OPS:
            kind = TensorProto.INT64
        elif node.op_type in ("Constant", "ConstantOfShape"):
            kind = attributes["value"].t.data_type if "value" in attributes else TensorProto.FLOAT
        else:
            kind = types[node.input[1 if node.op_type == "Where" else 0]]
        types |= dict.fromkeys(node.output, kind)
    return {name for name, kind in types.items() if kind == TensorProto.FLOAT}


def store_weights_as_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that keeps large fp32 constants as fp16 and casts them when the graph is loaded: half the size.

    Lossless: constants that fp16 does not hold exactly stay; `export.rounding.round_weights_to_fp16` comes first.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    casts: list[onnx.NodeProto] = []
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < STORED_AS_FP16_FROM:
            continue
        name, stored = tensor.name, values.astype(np.float16)
        if not np.array_equal(stored.astype(np.float32), values):
            continue
        tensor.CopyFrom(numpy_helper.from_array(stored, f"{name}.stored"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}/Cast", to=TensorProto.FLOAT))
    nodes = [*casts, *copy.graph.node]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    onnx.checker.check_model(copy, full_check=True)
    return copy
