"""ONNX Runtime on an NVIDIA GPU: component by component, and the whole sampling loop on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bundle.load import Bundle, component_precision
from ..cuda.forms import loops_of
from ..cuda.onnx_networks import OnnxRuntimeNetworks
from ..cuda_sessions import open_cuda_session, require_cuda
from .onnxruntime import OnnxRuntimeBackend

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntimeCudaBackend(OnnxRuntimeBackend):
    """GPU `index`; a session for each number of rows that a component is run with. The loop's are opened by `loops`.

    Args:
        bundle: verified bundle.
        index: of the GPU.
        threads: recorded; the GPU does not heed them.
        precision: one of `Bundle.precisions`, or `tf32`.

    Raises:
        BackendUnavailableError: onnxruntime is not installed or has no CUDA.
    """

    def __init__(self, bundle: Bundle, index: int, threads: int, precision: str) -> None:
        super().__init__(bundle, f"cuda:{index}", threads)
        require_cuda(self.device)
        self.precision = precision
        self._index = index
        self._by_rows: dict[tuple[str, int], onnxruntime.InferenceSession] = {}
        self.loops = loops_of(bundle, OnnxRuntimeNetworks(bundle, index, precision))

    def load(self, component: str, rows: int) -> None:
        """Make the component's session for inputs of this many rows."""
        self._session_for(component, rows)

    def _session_for(self, component: str, rows: int) -> onnxruntime.InferenceSession:
        key = (component, rows)
        if key not in self._by_rows:
            path = self.bundle.component_path(component, self.precision)
            precision = component_precision(component, self.precision)
            self._by_rows[key] = open_cuda_session(path, self._index, rows, precision)
        return self._by_rows[key]
