"""A look into an ONNX file without loading it: is it whole, and does all its data lie where it may?

Walks the protobuf wire format (protobuf.dev/programming-guides/encoding) over the messages of onnx.proto3 and
skips the weights, so a file of any size is read in milliseconds and nothing is allocated on its word.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..errors import InvalidInputError

MAX_DEPTH = 32
MAX_ELEMENTS = 1 << 32
# onnx.proto3: bytes of one element, by TensorProto.DataType
ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}
# field numbers of onnx.proto3
MODEL_GRAPH, MODEL_TRAINING, MODEL_FUNCTION = 7, 20, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
FUNCTION_NODE, FUNCTION_ATTRIBUTE = 7, 11
TRAINING_GRAPHS = (1, 2)
NODE_ATTRIBUTE = 5
ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
SPARSE_TENSORS = (1, 2)  # values and indices
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW, TENSOR_EXTERNAL, TENSOR_LOCATION = 1, 2, 8, 9, 13, 14
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

Span = tuple[int, int]


class _Malformed(ValueError):
    pass


def check_onnx_file(path: Path) -> None:
    """Check that an ONNX file is a whole protobuf message whose tensors hold what their shapes claim.

    Raises:
        InvalidInputError: unreadable, truncated or malformed; a tensor whose shape does not fit its data; external
            data that is absolute, leaves the file's folder or does not exist.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Scanner(path, data).model()
    except _Malformed as error:
        raise InvalidInputError(f"{path}: not a sound ONNX file: {error}") from error
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise InvalidInputError(f"{path}: cannot be read as ONNX: {error}") from error


class _Scanner:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data = path, data

    def model(self) -> None:
        fields = list(self._fields((0, len(self.data))))
        graphs = [value for number, value in fields if number == MODEL_GRAPH]
        if len(graphs) != 1 or isinstance(graphs[0], int):
            raise _Malformed("it holds no graph")
        self._graph(graphs[0], depth=0)
        for number, value in fields:
            if number == MODEL_FUNCTION:
                self._function(_message(value))
            elif number == MODEL_TRAINING:
                for inner, part in self._fields(_message(value)):
                    if inner in TRAINING_GRAPHS:
                        self._graph(_message(part), depth=0)

    def _graph(self, span: Span, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _Malformed(f"subgraphs nested deeper than {MAX_DEPTH}")
        for number, value in self._fields(span):
            if number == GRAPH_NODE:
                self._node(_message(value), depth)
            elif number == GRAPH_INITIALIZER:
                self._tensor(_message(value))
            elif number == GRAPH_SPARSE:
                self._sparse(_message(value))

    def _function(self, span: Span) -> None:
        for number, value in self._fields(span):
            if number == FUNCTION_NODE:
                self._node(_message(value), depth=0)
            elif number == FUNCTION_ATTRIBUTE:
                self._attribute(_message(value), depth=0)

    def _node(self, span: Span, depth: int) -> None:
        for number, value in self._fields(span):
            if number == NODE_ATTRIBUTE:
                self._attribute(_message(value), depth)

    def _attribute(self, span: Span, depth: int) -> None:
        for number, value in self._fields(span):
            if number in ATTRIBUTE_TENSORS:
                self._tensor(_message(value))
            elif number in ATTRIBUTE_GRAPHS:
                self._graph(_message(value), depth + 1)
            elif number in ATTRIBUTE_SPARSE:
                self._sparse(_message(value))

    def _sparse(self, span: Span) -> None:
        for number, value in self._fields(span):
            if number in SPARSE_TENSORS:
                self._tensor(_message(value))

    def _tensor(self, span: Span) -> None:
        dims: list[int] = []
        kind, name, raw, location, external = 0, "", None, 0, []
        for number, value in self._fields(span):
            if number == TENSOR_DIMS:
                dims += [value] if isinstance(value, int) else list(self._packed(value))
            elif number == TENSOR_TYPE and isinstance(value, int):
                kind = value
            elif number == TENSOR_NAME:
                name = self._text(_message(value))
            elif number == TENSOR_RAW:
                raw = _message(value)
            elif number == TENSOR_EXTERNAL:
                external.append(_message(value))
            elif number == TENSOR_LOCATION and isinstance(value, int):
                location = value
        elements = math.prod(dims)
        if elements > MAX_ELEMENTS:  # a negative dimension reads as one above 2^63
            raise _Malformed(f"tensor {name!r} claims {elements} elements")
        if raw is not None and location == 0 and kind in ITEM_BYTES and raw[1] - raw[0] != elements * ITEM_BYTES[kind]:
            raise _Malformed(f"tensor {name!r} claims {elements} elements but holds {raw[1] - raw[0]} bytes")
        if location or external:
            self._external(name, external)

    def _external(self, name: str, entries: list[Span]) -> None:
        pairs = {}
        for entry in entries:
            texts = {number: self._text(_message(value)) for number, value in self._fields(entry)}
            pairs[texts.get(1, "")] = texts.get(2, "")
        place = pairs.get("location", "")
        pure = PurePosixPath(place)
        folder = self.path.parent.resolve()
        inside = (folder / pure).resolve().is_relative_to(folder)
        if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\\" in place or not inside:
            raise InvalidInputError(
                f"{self.path}: tensor {name!r} keeps its data at {place!r}, outside the bundle; refused"
            )
        if not (folder / pure).is_file():
            raise InvalidInputError(f"{self.path}: tensor {name!r} keeps its data at {place!r}, which is missing")

    def _fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """Field numbers of a message with their varint or the span of their bytes; fixed-size fields are skipped."""
        at, end = span
        while at < end:
            tag, at = self._varint(at, end)
            number, wire = tag >> 3, tag & 7
            if number == 0:
                raise _Malformed("field number 0")
            if wire == VARINT:
                value, at = self._varint(at, end)
                yield number, value
            elif wire == BYTES:
                length, at = self._varint(at, end)
                if at + length > end:
                    raise _Malformed("a field runs past the end; the file is truncated or damaged")
                yield number, (at, at + length)
                at += length
            elif wire in (FIXED64, FIXED32):
                at += 8 if wire == FIXED64 else 4
                if at > end:
                    raise _Malformed("a field runs past the end; the file is truncated or damaged")
            else:
                raise _Malformed(f"wire type {wire}")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                raise _Malformed("a number runs past the end; the file is truncated or damaged")
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise _Malformed("a number of more than ten bytes")

    def _packed(self, span: Span) -> Iterator[int]:
        at, end = span
        while at < end:
            value, at = self._varint(at, end)
            yield value

    def _text(self, span: Span) -> str:
        return self.data[span[0] : span[1]].decode("utf-8", errors="replace")


def _message(value: int | Span) -> Span:
    if isinstance(value, int):
        raise _Malformed("a number where a message belongs")
    return value
