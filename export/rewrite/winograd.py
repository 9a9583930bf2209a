"""Convolutions rewritten for ONNX Runtime on a CPU: half the multiplications, and 2D ones in the place of 3D ones.

Along its first spatial axis (depth, or height where there is none) a convolution of 3 taps becomes Winograd's minimal
filtering F(4, 3) (Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section 4.1): six slices or
lines of the input are mixed linearly, each of the six mixtures goes through a convolution over the other axes, and
their results are mixed into four. ONNX Runtime has fast kernels for 2D convolutions alone, and what is left of a 3D one
is 2D. Equal up to float32 rounding (4e-7 of a layer's result in 2D, 2e-6 in 3D); other runtimes keep the plain graph.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import external_data_helper, helper, numpy_helper

from ...engine.errors import InvalidInputError
from ...engine.onnx_sessions import fast_graph_name

TILE = 4  # outputs of a tile along the axis
TAPS = TILE + 2  # its inputs
CHANNEL_BLOCK = 16  # ONNX Runtime's blocked convolutions want multiples
WIDE = 64  # channels in and out from which mixing costs less than it saves in 2D (docs/benchmarks.md)
LARGE = (
    10**9
)  # multiply-adds of a 2D layer, of a batch of one: below it several threads lose by more nodes what one saves
PIECE_BYTES = 1 << 23  # of a 2D layer's mixtures at a time: beyond it they leave the cache, and nothing is won
RMS_LIMIT = 2e-5  # of the rewritten graph against the plain one, relative
SHARED_FROM = 1024  # bytes of a weight that is worth referring to

# Lavin & Gray 2016, equations 10-12, for F(4, 3): input, filter and output transform
_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_FILTER = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
_BIAS = [0, 1, 0, 0, 0, 0]  # a constant in this mixture reaches every output slice once


def with_fast_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every convolution that profits is rewritten; the model itself where none does.

    Which: kernels of 3 along each axis, stride 1, padding 1, no dilation or groups, a first spatial axis that is a
    multiple of 4, input channels a multiple of 16; in 2D at least `WIDE` channels in and out and `LARGE`. Inputs and
    outputs stay, weights stay where they are: the filter transform is part of the graph, and folded when it is loaded.
    """
    candidates = [node for node in model.graph.node if _is_candidate(node)]
    if not candidates:
        return model
    shapes = _shapes(model, sorted({name for node in candidates for name in (node.input[0], node.output[0])}))
    fitting = {n.output[0] for n in candidates if _profits(shapes[n.input[0]], shapes[n.output[0]][1])}
    if not fitting:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    nodes = list(graph.node)
    del graph.node[:]
    for name, values in _shared_constants().items():
        graph.initializer.append(numpy_helper.from_array(values, name))
    for node in nodes:
        if node.output[0] in fitting:
            rewrite = _Rewrite(node, shapes[node.input[0]], shapes[node.output[0]][1])
            graph.node.extend(rewrite.nodes)
            graph.initializer.extend(rewrite.constants)
        else:
            graph.node.append(node)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def write_fast_graph(model: onnx.ModelProto, plain: Path) -> Path | None:
    """Write the rewritten graph of `model` beside its own file `plain`; None where nothing is to be rewritten.

    The new file is called as `fast_graph_name` says, shares the weights of the plain one, and is held to it.

    Raises:
        InvalidInputError: it departs from the plain graph by more than `RMS_LIMIT`.
    """
    rewritten = with_fast_convolutions(model)
    if rewritten is model:
        return None
    path = plain.with_name(fast_graph_name(plain.name))
    save_beside(rewritten, path, plain)
    feeds = _feeds(model)
    wanted, made = ([np.asarray(array) for array in _session(file).run(None, feeds)] for file in (plain, path))
    for name, a, b in zip([value.name for value in model.graph.output], wanted, made, strict=True):
        departure = float(np.sqrt(np.mean((b - a) ** 2) / max(float(np.mean(a**2)), 1e-30)))
        if not departure <= RMS_LIMIT:
            raise InvalidInputError(
                f"{path}: {name} departs by {departure:.1e} from {plain.name}, over {RMS_LIMIT:.0e}"
            )
    return path


def save_beside(model: onnx.ModelProto, path: Path, source: Path) -> None:
    """Write a graph whose weights are read from `source`, an ONNX file in the same folder that holds the same bytes.

    Raises:
        ValueError: the files lie in different folders.
    """
    if path.parent.resolve() != source.parent.resolve():
        raise ValueError(f"{path} cannot share the weights of {source}: they lie in different folders")
    held = source.read_bytes()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        raw = tensor.raw_data
        offset = held.find(raw) if len(raw) >= SHARED_FROM else -1
        if offset >= 0:
            external_data_helper.set_external_data(tensor, source.name, offset, len(raw))
            tensor.ClearField("raw_data")
    path.write_bytes(copy.SerializeToString(deterministic=True))


class _Rewrite:
    """The nodes and constants that take the place of one convolution of an input (N, C, D, H, W) or (N, C, H, W).

    Below, `axis` is D, or H; `rest` is (H, W), or (1, W): the axes of the convolution that is left.
    """

    def __init__(self, node: onnx.NodeProto, input_shape: tuple[int, ...], out_channels: int) -> None:
        self.prefix = node.output[0]
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        _, self.channels, self.axis, *self.after = input_shape
        self.out_channels = out_channels
        flat = len(self.after) == 1
        self.rest, self.kernel = ([1, *self.after], [1, 3]) if flat else (self.after, [3, 3])
        tiles = self.axis // TILE
        self.members = self._constant(np.arange(tiles)[:, None] * TILE + np.arange(TAPS))
        ends = [0, 1, 0] + [0] * len(self.after)
        self.pads = self._constant(np.array(ends + ends))
        weights = self._weights(node)
        pieces = _pieces(input_shape)
        if pieces == 1:
            self._convolve(node.input[0], weights, node.output[0])
            return
        parts = [f"{self.prefix}.piece{i}" for i in range(pieces)]
        self.nodes.append(helper.make_node("Split", [node.input[0]], parts, axis=0, num_outputs=pieces))
        done = [self._convolve(part, weights) for part in parts]
        self._add("Concat", done, output=node.output[0], axis=0)

    def _convolve(self, source: str, weights: list[str], output: str | None = None) -> str:
        """`source` convolved; `output` is the name of the result where it has one already."""
        across = prod(self.after)
        channels, tiles = self.channels, self.axis // TILE
        exchange = [0, 2, 1, *range(3, 3 + len(self.after))]
        lines = self._add("Transpose", [source], perm=exchange)
        gathered = self._add("Gather", [self._add("Pad", [lines, self.pads]), self.members], axis=1)
        mixed = self._add("MatMul", ["winograd.input", self._reshape(gathered, -1, tiles, TAPS, channels * across)])
        grouped = self._reshape(mixed, -1, TAPS * channels, *self.rest)
        border = [size // 2 for size in self.kernel]
        convolved = self._add("Conv", [grouped, *weights], kernel_shape=self.kernel, pads=border * 2, group=TAPS)
        split = self._reshape(convolved, -1, tiles, TAPS, self.out_channels * across)
        mixed_back = self._add("MatMul", ["winograd.output", split])
        made = self._reshape(mixed_back, -1, self.axis, self.out_channels, *self.after)
        return self._add("Transpose", [made], output=output, perm=exchange)

    def _weights(self, node: onnx.NodeProto) -> list[str]:
        """The six filters (6 O, C, kernel of the rest) and the bias (6 O,); constants once the graph is loaded."""
        rank = len(self.after)
        by_tap = self._reshape(self._add("Transpose", [node.input[1]], perm=[2, 0, 1, *range(3, 3 + rank)]), 3, -1)
        filters = self._add("MatMul", ["winograd.filter", by_tap])
        weights = [self._reshape(filters, -1, self.channels, *self.kernel)]
        if len(node.input) > 2 and node.input[2]:
            spread = self._add("MatMul", ["winograd.bias", self._reshape(node.input[2], 1, -1)])
            weights.append(self._reshape(spread, -1))
        return weights

    def _add(self, kind: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        name = output or f"{self.prefix}.winograd{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, inputs, [name], name=f"{self.prefix}/{kind}{len(self.nodes)}", **attributes)
        )
        return name

    def _reshape(self, name: str, *shape: int) -> str:
        return self._add("Reshape", [name, self._constant(np.array(shape))])

    def _constant(self, values: NDArray[np.int64]) -> str:
        name = f"{self.prefix}.winograd.constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values.astype(np.int64), name))
        return name


def _shared_constants() -> dict[str, NDArray[Any]]:
    return {
        "winograd.input": np.array(_INPUT, np.float32),
        "winograd.filter": np.array(_FILTER, np.float32),
        "winograd.output": np.array(_OUTPUT, np.float32),
        "winograd.bias": np.array(_BIAS, np.float32)[:, None],
    }


def _is_candidate(node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution of 3 taps along each of two or three axes that keeps its input's size."""
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    rank = len(given.get("kernel_shape", ()))
    wanted = {"kernel_shape": [3] * rank, "strides": [1] * rank, "dilations": [1] * rank, "pads": [1] * 2 * rank}
    assumed = {"strides": [1] * rank, "dilations": [1] * rank, "group": 1, "auto_pad": b"NOTSET"}
    present = assumed | given
    return (
        node.op_type == "Conv"
        and rank in (2, 3)
        and all(present.get(k) == v for k, v in (wanted | {"group": 1, "auto_pad": b"NOTSET"}).items())
    )


def _profits(shape: tuple[int, ...], out_channels: int) -> bool:
    """Whether a convolution of an input of this shape is faster rewritten."""
    _, channels, axis, *after = shape
    if axis % TILE or channels % CHANNEL_BLOCK:
        return False
    return len(after) == 2 or (min(channels, out_channels) >= WIDE and 9 * prod(shape) * out_channels >= LARGE)


def _pieces(shape: tuple[int, ...]) -> int:
    """Into how many equal parts the rows of a 2D layer's input are cut, so that the mixtures of each stay small.

    `shape` is that of a batch of one: more rows than one are the depth of a volume, which every batch is a multiple of.
    """
    rows, *sizes = shape
    if len(sizes) == 4:
        return 1
    fitting = PIECE_BYTES // (4 * prod(sizes) * TAPS // TILE)
    return next(
        pieces for pieces in range(1, rows + 1) if rows % pieces == 0 and (rows // pieces <= fitting or pieces == rows)
    )


def _shapes(model: onnx.ModelProto, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors for a batch of one, found by running the graph: inference stops at GroupNormalization."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    present = {value.name for value in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    session = _session(watched.SerializeToString())
    return {name: np.asarray(array).shape for name, array in zip(names, session.run(names, _feeds(model)), strict=True)}


def _feeds(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Random inputs for a batch of one; whole numbers are 0."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        kind = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        sizes = [1, *(dim.dim_value for dim in tensor.shape.dim[1:])]
        feeds[value.name] = rng.standard_normal(sizes).astype(kind) if kind.kind == "f" else np.zeros(sizes, kind)
    return feeds


def _session(model: Path | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
