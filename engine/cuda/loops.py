"""The sampling loop of a backend whose networks run on a device's memory: opened for a batch size, tried, kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from ..bundle.load import Bundle
from ..errors import DeviceMemoryError
from ..sampling.plan import SamplingPlan
from .device import Device, DeviceNetwork, GraphError, Launching
from .footprint import default_samples, require_room
from .loop import LoopBatch
from .networks import open_generator
from .volumes import BUFFERS, VolumeGenerator


class Networks(Protocol):
    """A bundle's networks on a device."""

    @property
    def precision(self) -> str:
        """What they compute in."""
        ...

    def open_device(self) -> Device:
        """The device; BackendUnavailableError where it cannot be had."""
        ...

    def refuse_graphs(self, reason: str) -> None:
        """Give networks that are launched without any graph from now on."""
        ...

    def components(self, rows: int, device: Device, streams: tuple[Any, Any]) -> Mapping[str, DeviceNetwork]:
        """The components that generation runs, for `rows` rows of the denoiser's batch, `rows_of` of the others'.

        The denoiser's work goes to the first stream, that of the others to the second. DeviceMemoryError where there is
        no room, BackendUnavailableError where they cannot be had.
        """
        ...


@dataclass(frozen=True)
class DeviceLoop:
    """An open loop: as one graph a batch, with a graph a network, or as plain launches and why."""

    device: Device
    volumes: VolumeGenerator
    kind: Literal["graph", "graphs", "launches"]
    reason: str


class DeviceLoops:
    """Opens the loop for a batch size and guidance; keeps the last one with its memory and its graphs."""

    def __init__(self, bundle: Bundle, networks: Networks) -> None:
        self._bundle, self._networks = bundle, networks
        self._device: Device | None = None
        self._loop: DeviceLoop | None = None
        self._tried: set[SamplingPlan] = set()
        self._refusal: str | None = None  # why no graph is captured

    @staticmethod
    def of(bundle: Bundle, networks: Networks) -> DeviceLoops | None:
        """None where the loop needs the host in its midst: masks are solved there, before the images are sampled."""
        return DeviceLoops(bundle, networks) if bundle.manifest.mask_first is None else None

    def device(self) -> Device:
        """The device, opened at the first call."""
        if self._device is None:
            self._device = self._networks.open_device()
        return self._device

    def default_samples(self, guided: bool) -> int:
        """Samples of a batch where none are asked for: by the model and the card's memory."""
        with self.device().current():
            _, total = self.device().memory()
        return default_samples(self._bundle, guided, total, self._networks.precision)

    def refuse_graphs(self, reason: str) -> None:
        """Launch without graphs, as another process of the same run found that it must."""
        self._refusal = reason
        self._networks.refuse_graphs(reason)
        self._loop = None
        self._tried.clear()

    def open(self, batch: int, plan: SamplingPlan) -> DeviceLoop:
        """A loop that has run this plan once: its memory is there, its networks are warm, its graphs are captured.

        Where the device captures no graph of it, the same launches are queued one by one.

        Raises:
            DeviceMemoryError: a batch of this size does not fit.
            BackendUnavailableError: device, networks or kernels cannot be had.
        """
        with self.device().current():
            loop = self._loop
            if loop is None or (loop.volumes.shape.samples, loop.volumes.shape.guided) != (
                batch,
                plan.guidance is not None,
            ):
                self._loop = loop = None  # its memory goes before the next is allocated
                self._tried.clear()
            try:
                return self._ready(loop, batch, plan)
            except GraphError as error:
                loop = None
                self.refuse_graphs(str(error))
            return self._ready(None, batch, plan)

    def _ready(self, loop: DeviceLoop | None, batch: int, plan: SamplingPlan) -> DeviceLoop:
        try:
            loop = loop or self._build(batch, plan.guidance is not None)
            if plan not in self._tried:
                self._try(loop.volumes, plan)
        except DeviceMemoryError as error:
            self._loop = None
            raise DeviceMemoryError(f"batch size {batch} does not fit: {error}") from error
        self._loop = loop
        self._tried.add(plan)
        return loop

    def _build(self, batch: int, guided: bool) -> DeviceLoop:
        device = self.device()
        require_room(self._bundle, batch, guided, *device.memory(), self._networks.precision)
        streams = (device.stream(), device.stream())
        components = self._networks.components(2 * batch if guided else batch, device, streams)
        launching = components["denoiser"].launching if self._refusal is None else Launching("launches", self._refusal)
        whole = launching.kind == "graph"
        volumes = open_generator(self._bundle, batch, guided, device, components, streams, use_graphs=whole)
        reason = {
            "graph": f"captured on {device.name}",
            "graphs": f"each network a graph of its runtime on {device.name}",
            "launches": f"{device.name} captures no graph: {launching.reason}",
        }
        return DeviceLoop(device, volumes, launching.kind, reason[launching.kind])

    def _try(self, volumes: VolumeGenerator, plan: SamplingPlan) -> None:
        n, columns = volumes.shape.samples, volumes.shape.condition_columns
        numbers, condition = np.arange(n, dtype=np.uint64), np.zeros((n, columns), np.float32)
        batch = LoopBatch(0, numbers, np.zeros(n, np.int64), condition, np.ones(n, np.float32))
        for _ in range(BUFFERS):
            volumes.collect(volumes.start(batch, plan))


@runtime_checkable
class OnDevice(Protocol):
    """A backend on a device, which may have the whole loop there."""

    loops: DeviceLoops | None
