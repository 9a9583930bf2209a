"""The first divergent layer of an exported graph: layer outputs of graph and network, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from .components import Component
from .parity import Arrays
from .runners import make_session

LAYERS = (nn.Conv2d, nn.Conv3d, nn.Linear, nn.GroupNorm)


def first_divergent_layer(component: Component, model: onnx.ModelProto, inputs: Arrays, limit: float) -> str:
    """The range of layers in which the RMS relative error passes `limit`, in words.

    Node names of `model` start with the path of their module, as `export_graph` writes them.
    """
    cuts = _cut_points(component, model)
    expected = _layer_outputs(component, set(cuts), inputs)
    session = make_session(model, extra_outputs=list(cuts.values()))
    got = dict(zip(cuts, session.run(list(cuts.values()), dict(inputs)), strict=True))
    sound = "the inputs"
    for path in cuts:
        if path not in expected or expected[path].shape != got[path].shape:
            continue
        error = _rms_relative(expected[path], got[path])
        if not error <= limit:
            return f"between {sound} and {path} (RMS {error:.2e} there)"
        sound = f"{path} (RMS {error:.2e} there)"
    return f"behind {sound}, the last layer compared"


def _cut_points(component: Component, model: onnx.ModelProto) -> dict[str, str]:
    """Layer path -> tensor that holds its output, in the order of execution."""
    layers = {path for path, module in component.module.named_modules() if isinstance(module, LAYERS)}
    tensors: dict[str, str] = {}
    for node in model.graph.node:
        path = node.name.rpartition("/")[0]
        if path in layers and node.op_type != "Cast":
            tensors[path] = node.output[0]
    return tensors


def _layer_outputs(component: Component, paths: set[str], inputs: Arrays) -> dict[str, NDArray[Any]]:
    kept: dict[str, NDArray[Any]] = {}

    def keep(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            kept[path] = output.numpy().copy()

        return hook

    handles = [
        module.register_forward_hook(keep(path)) for path, module in component.module.named_modules() if path in paths
    ]
    try:
        with torch.inference_mode():
            component.module(**{name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()})
    finally:
        for handle in handles:
            handle.remove()
    return kept


def _rms_relative(reference: NDArray[Any], made: NDArray[Any]) -> float:
    a, b = reference.astype(np.float64), np.asarray(made, np.float64)
    return float(np.sqrt(np.mean((b - a) ** 2)) / max(float(np.sqrt(np.mean(a**2))), 1e-30))
