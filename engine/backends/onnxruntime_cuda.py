"""ONNX Runtime on an NVIDIA GPU: component by component, and the whole sampling loop on the device."""

from __future__ import annotations

from ..bundle.load import Bundle
from ..cuda.loops import DeviceLoops
from ..cuda.networks import OnnxRuntimeNetworks
from .onnxruntime import OnnxRuntimeBackend


class OnnxRuntimeCudaBackend(OnnxRuntimeBackend):
    """GPU `index`; see `OnnxRuntimeBackend`. Device and sessions of the loop are opened by `loops`."""

    def __init__(self, bundle: Bundle, index: int, threads: int) -> None:
        super().__init__(bundle, f"cuda:{index}", threads)
        self.loops = DeviceLoops.of(bundle, OnnxRuntimeNetworks(bundle, index))
