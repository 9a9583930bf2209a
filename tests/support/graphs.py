"""Each network is traced into a graph once a session: `export_graph` of the same component gives the same graph."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from unittest.mock import patch

import onnx
from filelock import FileLock
from sbldm.export.components import Component
from sbldm.export.onnx_graph import export_graph
from torch.onnx._internal.exporter._registration import ONNXRegistry

ROOT = Path(__file__).parents[2]
REGISTRY = staticmethod(cache(ONNXRegistry.from_torchlib))  # PyTorch reads it anew for each graph
SOURCES = ("train/networks/*.py", "export/components.py", "export/onnx_graph.py", "export/rewrite/lookups.py")


def export_graph_once(folder: Path, component: Component, depth: int, opset: int) -> onnx.ModelProto:
    """`export_graph`, kept in a folder by tensors, layers, weights and source; processes may share the folder."""
    described = (component.inputs, component.outputs, component.module, depth, opset, _source())
    digest = hashlib.sha256(repr(described).encode())
    for name, value in component.module.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    file = folder / f"{component.name}-{digest.hexdigest()}.onnx"
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            with patch.object(ONNXRegistry, "from_torchlib", REGISTRY):
                file.write_bytes(export_graph(component, depth, opset).SerializeToString())
    return onnx.load(file)


@cache
def _source() -> str:
    """A hash of what graphs are made by."""
    files = sorted(file for pattern in SOURCES for file in ROOT.glob(pattern))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
