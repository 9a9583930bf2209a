"""Each network is traced into a graph once a session: `export_graph` of the same component gives the same graph."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from filelock import FileLock
from sbldm.export.components import Component
from sbldm.export.onnx_graph import export_graph


def export_graph_once(folder: Path, component: Component, depth: int, opset: int) -> onnx.ModelProto:
    """`export_graph`, kept in a folder by tensors, layers and weights; processes may share the folder."""
    digest = hashlib.sha256(repr((component.inputs, component.outputs, component.module, depth, opset)).encode())
    for name, value in component.module.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    file = folder / f"{component.name}-{digest.hexdigest()}.onnx"
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            file.write_bytes(export_graph(component, depth, opset).SerializeToString())
    return onnx.load(file)
