"""ONNX Runtime on the CPU, the embedded default."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from ..bundle.load import Bundle
from ..errors import DeviceMemoryError, InvalidInputError
from ..memory_errors import says_out_of_memory
from ..onnx_sessions import fast_graph_name, import_onnxruntime, run_errors, session_options, terminable

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntimeBackend:
    """Sessions of a bundle's components, each made at its first use.

    Args:
        bundle: verified bundle.
        device: `cpu`.
        threads: of one session; a few voxels may differ by 1/1000 between numbers of threads, so it is recorded.

    Raises:
        BackendUnavailableError: onnxruntime is not installed.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, device: str, threads: int) -> None:
        self._ort = import_onnxruntime()
        self.bundle, self.device, self.threads = bundle, device, threads
        self.precision = bundle.manifest.precision
        self.version: str = self._ort.__version__
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def run(self, component: str, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Outputs of a component by name; inputs as the bundle's manifest names them."""
        session = self._session_for(component, len(next(iter(inputs.values()))))
        names = [o.name for o in self.bundle.manifest.components[component].outputs]
        with run_errors(component), terminable() as options:
            outputs = session.run(names, dict(inputs), options)
        return dict(zip(names, cast("list[NDArray[np.float32]]", outputs), strict=True))

    def load(self, component: str, rows: int) -> None:
        """Make the component's session, whatever the rows."""
        self.session(component)

    def session(self, component: str) -> onnxruntime.InferenceSession:
        """The component's session.

        Raises:
            InvalidInputError: the graph cannot be loaded.
            DeviceMemoryError: there is no memory for it.
        """
        if component not in self._sessions:
            self._sessions[component] = self._load(component)
        return self._sessions[component]

    def _session_for(self, component: str, rows: int) -> onnxruntime.InferenceSession:
        return self.session(component)

    def _load(self, component: str) -> onnxruntime.InferenceSession:
        path = self._path(component)
        errors = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        try:
            return self._ort.InferenceSession(path, session_options(self.threads), providers=["CPUExecutionProvider"])
        except (
            errors.Fail,
            errors.InvalidProtobuf,
            errors.InvalidGraph,
            errors.InvalidArgument,
            errors.NotImplemented,
            errors.RuntimeException,
            UnicodeDecodeError,  # a fault that quotes a damaged name
        ) as error:
            if says_out_of_memory(str(error)):
                raise DeviceMemoryError(f"{path}: no memory to load it: {error}") from error
            raise InvalidInputError(f"{path}: onnxruntime {self.version} cannot load it: {error}") from error

    def _path(self, component: str) -> Path:
        """The component's graph: the one made for the CPU, where the bundle holds one."""
        plain = self.bundle.component_path(component)
        fast = fast_graph_name(self.bundle.manifest.components[component].file)
        return self.bundle.path / fast if fast in self.bundle.manifest.files else plain
