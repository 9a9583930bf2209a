"""Who computes a component: the PyTorch modules, or ONNX graphs through ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ..engine.bundle.manifest import Form
from ..train.torch_components import TorchComponents
from .components import Component

Arrays = dict[str, NDArray[Any]]
REDUCED_TYPES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def torch_runner(components: Mapping[str, Component], form: Form = "slices") -> TorchComponents:
    """The fp32 networks themselves."""
    return TorchComponents({name: component.module for name, component in components.items()}, form=form)


class OnnxRunner:
    """The exported graphs, one session each, made when first asked for."""

    def __init__(self, models: Mapping[str, onnx.ModelProto], threads: int = 0) -> None:
        self.models, self.threads = models, threads
        self.sessions: dict[str, Any] = {}

    def run(self, component: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by tensor name."""
        if component not in self.sessions:
            self.sessions[component] = make_session(self.models[component], threads=self.threads)
        session = self.sessions[component]
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def make_session(model: onnx.ModelProto, extra_outputs: Sequence[str] = (), threads: int = 0) -> Any:
    """An ONNX Runtime session on the CPU that also returns the tensors named in `extra_outputs`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other work may share the machine
    runnable = emulate_reduced(model)
    if extra_outputs:
        watched = onnx.ModelProto()
        watched.CopyFrom(runnable)
        present = {value.name for value in watched.graph.output}
        watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra_outputs if name not in present)
        runnable = watched
    return onnxruntime.InferenceSession(runnable.SerializeToString(), options, providers=["CPUExecutionProvider"])


def emulate_reduced(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same numbers as on a device that computes in 16 bits: fp32 arithmetic, each result rounded to its type.

    A CPU runtime has no bfloat16 kernels, and ONNX Runtime's keeps fp16 tensors between convolutions in fp32, where
    nothing overflows: what is beyond fp16's range becomes infinite here as it does on a GPU.

    A model without 16 bits is returned as it is.
    """
    graph = model.graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer if tensor.data_type in REDUCED_TYPES}
    if not types:
        return model
    nodes: list[onnx.NodeProto] = []
    for original in graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        target = node.attribute[0].i if node.op_type == "Cast" else None
        low = next((types[name] for name in node.input if name in types), None)
        reduced = target if target in REDUCED_TYPES else None if node.op_type in ("Cast", "Shape") else low
        nodes.append(node)
        if reduced is None:
            continue
        for index, name in enumerate(node.output):
            types[name] = reduced
            if node.op_type == "Cast":
                node.output[index] = f"{name}.rounded"
            else:
                node.output[index] = f"{name}.exact"
                nodes.append(_cast(f"{name}.exact", f"{name}.rounded", reduced))
            nodes.append(_cast(f"{name}.rounded", name, TensorProto.FLOAT))
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:], copy.graph.value_info[:]
    for tensor in copy.graph.initializer:
        if tensor.data_type in REDUCED_TYPES:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    copy.graph.node.extend(nodes)
    return copy


def _cast(source: str, target: str, element_type: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}/Emulated", to=element_type)
