"""Some components in OpenVINO, the rest in ONNX Runtime; `openvino-denoiser-decoder` names the former."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ..bundle.load import Bundle
from ..bundle.manifest import COMPONENTS
from ..errors import UsageError
from .onnxruntime import OnnxRuntimeBackend
from .openvino import OpenVinoBackend

PREFIX = "openvino-"


class MixedBackend:
    """Sends each component to one of two backends; `precision` is that of the OpenVINO part.

    Raises:
        UsageError: a name that is no component, twice the same, or in another order than the bundle's.
        BackendUnavailableError: either package is not installed.
    """

    device = "cpu"

    def __init__(self, bundle: Bundle, name: str, precision: str, threads: int) -> None:
        self.in_openvino = components_of_name(name)
        self._onnxruntime = OnnxRuntimeBackend(bundle, "cpu", threads)
        self._openvino = OpenVinoBackend(bundle, precision, threads)
        self.name, self.threads, self.precision = name, threads, self._openvino.precision
        self.version = f"{self._openvino.version}, onnxruntime {self._onnxruntime.version}"

    def run(self, component: str, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Outputs of a component by name."""
        return self._part(component).run(component, inputs)

    def load(self, component: str, rows: int) -> None:
        """Make a component ready for inputs of this many rows."""
        self._part(component).load(component, rows)

    def _part(self, component: str) -> OnnxRuntimeBackend | OpenVinoBackend:
        return self._openvino if component in self.in_openvino else self._onnxruntime


def mixed_name(in_openvino: Iterable[str]) -> str:
    """The one spelling of a mix: its OpenVINO components in the bundle's order."""
    wanted = set(in_openvino)
    return PREFIX + "-".join(component for component in COMPONENTS if component in wanted)


def components_of_name(name: str) -> frozenset[str]:
    """The OpenVINO components of a mix's name; UsageError where it is not the spelling of `mixed_name`."""
    found = frozenset(name.removeprefix(PREFIX).split("-"))
    if not found <= set(COMPONENTS) or name != mixed_name(found):
        raise UsageError(
            f"--backend {name}: after {PREFIX!r}, components joined by - in the order {', '.join(COMPONENTS)}"
        )
    return found
