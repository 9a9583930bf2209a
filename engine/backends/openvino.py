"""OpenVINO on the CPU: bfloat16 where the processor multiplies it in hardware, float32 elsewhere."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle.load import Bundle, component_precision
from ..errors import BackendUnavailableError, InvalidInputError, UsageError
from ..model_runs import RunTerminatedError, ended_by
from ..processor import has_bf16
from ..versions import installed

_CANCELLED = "Infer Request was canceled"  # how OpenVINO says that it obeyed, within a node of the graph
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}  # how the command line and OpenVINO call them


class OpenVinoBackend:
    """A bundle's components, each compiled at its first use for every batch size that it is run with.

    With threads, their partition and the shapes fixed, equal inputs give equal bytes. Another number of threads gives
    others: most voxels keep their value, some differ by up to 24/1000, and single labels with them.

    Args:
        bundle: verified bundle.
        precision: `auto`, `fp32` or `bf16`: what convolutions and products are computed in.
        threads: of one inference.

    Raises:
        BackendUnavailableError: openvino is not installed, or cannot be loaded and why.
        UsageError: a precision that this processor does not have.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, bundle: Bundle, precision: str, threads: int) -> None:
        openvino = _import_openvino()
        if precision not in ("auto", *PRECISIONS):
            raise UsageError(f"--precision {precision}: openvino offers auto, {', '.join(PRECISIONS)}")
        if precision == "bf16" and not has_bf16():
            raise UsageError("--precision bf16: this processor has neither avx512_bf16 nor AMX; use fp32")
        self.bundle, self.threads = bundle, threads
        self.precision = precision if precision != "auto" else "bf16" if has_bf16() else "fp32"
        self.version: str = openvino.__version__
        self._openvino = openvino
        self._core = openvino.Core()
        self._requests: dict[tuple[str, int], Any] = {}

    def run(self, component: str, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Outputs of a component by name; inputs as the bundle's manifest names them."""
        spec = self.bundle.manifest.components[component]
        arrays = {i.name: np.ascontiguousarray(inputs[i.name], i.dtype) for i in spec.inputs}
        batch = len(arrays[spec.inputs[0].name])
        self.load(component, batch)
        request = self._requests[component, batch]
        try:
            with ended_by(request.cancel):
                request.start_async(arrays, share_inputs=True)  # `infer` would not be cancelled
                request.wait()
        except RuntimeError as error:
            if _CANCELLED not in str(error):
                raise
            raise RunTerminatedError(f"{component}: ended before it was done") from error
        return {o.name: np.array(request.get_tensor(o.name).data, np.float32) for o in spec.outputs}

    def load(self, component: str, rows: int) -> None:
        """Compile the component for inputs of this many rows."""
        if (component, rows) not in self._requests:
            self._requests[component, rows] = self._compile(component, rows)

    def _compile(self, component: str, batch: int) -> Any:
        path = self.bundle.component_path(component)
        properties = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[component_precision(component, self.precision)],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "ENABLE_CPU_PINNING": False,  # several worker processes share the cores
            "TBB_PARTITIONER": "STATIC",
        }
        try:
            model = self._core.read_model(path)
            tails = {port: port.get_partial_shape() for port in model.inputs}
            model.reshape({port: [batch, *list(tail)[1:]] for port, tail in tails.items()})
            return self._core.compile_model(model, "CPU", properties).create_infer_request()
        except RuntimeError as error:
            raise InvalidInputError(f"{path}: openvino {self.version} cannot compile it: {error}") from error


def _import_openvino() -> ModuleType:
    try:
        return importlib.import_module("openvino")
    except (ImportError, OSError, AttributeError) as error:
        if (found := installed("openvino")) is None:
            raise BackendUnavailableError('openvino is not installed: pip install "sbldm-engine[openvino]"') from error
        raise BackendUnavailableError(
            f"openvino {found} cannot be loaded: {error}; "
            'pip uninstall openvino, then pip install "sbldm-engine[openvino]"'
        ) from error
