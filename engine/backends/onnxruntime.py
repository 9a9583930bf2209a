"""ONNX Runtime, the embedded default: CPU, or CUDA where asked."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from ..bundle.load import Bundle
from ..errors import BackendUnavailableError, DeviceMemoryError, InvalidInputError
from ..memory_errors import says_out_of_memory
from ..onnx_sessions import (
    cuda_options,
    fast_graph_name,
    import_onnxruntime,
    run_errors,
    session_options,
    terminable,
)

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntimeBackend:
    """Sessions of a bundle's components, each made at its first use.

    Args:
        bundle: verified bundle.
        device: `cpu` or `cuda:I`.
        threads: of one session; a few voxels may differ by 1/1000 between numbers of threads, so it is recorded.

    Raises:
        BackendUnavailableError: onnxruntime is not installed, or CUDA was asked for and cannot run.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, device: str, threads: int) -> None:
        self._ort = import_onnxruntime()
        self.bundle, self.device, self.threads = bundle, device, threads
        self.precision = bundle.manifest.precision
        self.version: str = self._ort.__version__
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        if device != "cpu" and "CUDAExecutionProvider" not in self._ort.get_available_providers():
            raise BackendUnavailableError(
                f"--device {device}: this onnxruntime has no CUDA provider; "
                'install "sbldm-engine[gpu]" on a machine with an NVIDIA GPU'
            )

    def run(self, component: str, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Outputs of a component by name; inputs as the bundle's manifest names them."""
        session = self.session(component)
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
            BackendUnavailableError: it would silently run elsewhere than asked.
            DeviceMemoryError: there is no memory for it.
        """
        if component not in self._sessions:
            self._sessions[component] = self._load(component)
        return self._sessions[component]

    def _load(self, component: str) -> onnxruntime.InferenceSession:
        ort = self._ort
        options = session_options(self.threads)
        wanted: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
        if self.device != "cpu":
            wanted.insert(0, ("CUDAExecutionProvider", cuda_options(int(self.device.partition(":")[2] or 0))))
        path = self._path(component)
        errors = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        try:
            session = ort.InferenceSession(path, options, providers=wanted)
        except (
            errors.Fail,
            errors.InvalidProtobuf,
            errors.InvalidGraph,
            errors.InvalidArgument,
            errors.NotImplemented,
            errors.RuntimeException,
        ) as error:
            if says_out_of_memory(str(error)):
                raise DeviceMemoryError(f"{path}: no memory to load it: {error}") from error
            raise InvalidInputError(f"{path}: onnxruntime {self.version} cannot load it: {error}") from error
        if self.device != "cpu" and session.get_providers()[0] != "CUDAExecutionProvider":
            raise BackendUnavailableError(
                f"--device {self.device}: onnxruntime fell back to the CPU for {component}; see `sbldm-engine doctor`"
            )
        return session

    def _path(self, component: str) -> Path:
        """The component's graph; on the CPU the one made for it, where the bundle holds one."""
        plain = self.bundle.component_path(component)
        fast = fast_graph_name(self.bundle.manifest.components[component].file)
        return plain.with_name(fast) if self.device == "cpu" and fast in self.bundle.manifest.files else plain
