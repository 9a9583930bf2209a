"""A bundle's components as ONNX Runtime's CUDA sessions on a device's memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bundle.load import Bundle, component_precision
from ..cuda_sessions import open_cuda_session
from .device import Device, DeviceNetwork, Launching
from .device_networks import OnnxRuntimeNetwork
from .gpu import CudaDevice
from .replay_refusal import replay_refusal
from .shapes import STAGES


class OnnxRuntimeNetworks:
    """A bundle's components in ONNX Runtime on GPU `index`, as `loops.Networks`.

    Work of ONNX Runtime is not captured from outside, which versions up to 1.31 do not follow. With `replays` it
    captures each network itself; None: found out in a process of its own, once.
    """

    def __init__(self, bundle: Bundle, index: int, precision: str, replays: bool | None = None) -> None:
        self._bundle, self._index, self.precision = bundle, index, precision
        self._launching = None if replays is None else Launching("graphs" if replays else "launches", "")

    def open_device(self) -> CudaDevice:
        """The GPU."""
        return CudaDevice(self._index)

    def components(self, rows: Mapping[str, int], device: Device, streams: tuple[Any, Any]) -> dict[str, DeviceNetwork]:
        """CUDA sessions, those of denoisers on the first stream, the others' on the second.

        BackendUnavailableError where ONNX Runtime has no CUDA or would fall back to the CPU.
        """
        return {name: self.component(name, count, device, streams[name not in STAGES]) for name, count in rows.items()}

    def refuse_graphs(self, reason: str) -> None:
        """Run without graphs from now on."""
        self._launching = Launching("launches", reason)

    def component(self, name: str, rows: int, device: Device, stream: Any) -> DeviceNetwork:
        """One component for a number of rows on a stream."""
        if self._launching is None:
            reason = replay_refusal(self._bundle, self._index, self.precision)
            self._launching = Launching("graphs" if reason is None else "launches", reason or "")
        # each sample's latent is at another address: a graph for each would cost more than it saves
        launching = self._launching if name != "aggregator" else Launching("launches", "")
        path = self._bundle.component_path(name, self.precision)
        precision, replays = component_precision(name, self.precision), launching.kind == "graphs"
        session = open_cuda_session(path, self._index, rows, precision, stream.handle, replays=replays)
        return OnnxRuntimeNetwork(session, "cuda", self._index, launching, lambda: device.memory()[0])
