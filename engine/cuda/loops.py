"""The sampling loop of a backend whose networks run on a device's memory: opened for a batch size, tried, kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

from ..bundle.load import Bundle
from ..errors import DeviceMemoryError
from ..sampling.plan import SamplingPlan
from .device import Device, DeviceNetwork, GraphError, Launching
from .footprint import default_samples, require_room
from .loop import LoopShape
from .shapes import STAGES, device_rows


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

    def components(
        self, rows: Mapping[str, int], device: Device, streams: tuple[Any, Any]
    ) -> Mapping[str, DeviceNetwork]:
        """The components that `rows` names, each for batches of so many rows.

        Work of denoisers goes to the first stream, that of the others to the second. DeviceMemoryError where there is
        no room, BackendUnavailableError where they cannot be had.
        """
        ...


class Work(Protocol):
    """What a loop does on a device, all its memory allocated."""

    shape: LoopShape  # of the denoiser's loop

    def try_out(self, plan: SamplingPlan) -> None:
        """Runs a plan with every set of buffers; GraphError where the device captures no graph of it."""
        ...


W = TypeVar("W", bound=Work)


@dataclass(frozen=True)
class DeviceLoop(Generic[W]):
    """An open loop: as one graph a batch, with a graph a network, or as plain launches and why."""

    device: Device
    work: W
    kind: Literal["graph", "graphs", "launches"]
    reason: str


@dataclass(frozen=True)
class Ground:
    """What a loop stands on."""

    device: Device
    components: Mapping[str, DeviceNetwork]
    streams: tuple[Any, Any]  # the denoisers', and that of the other components
    use_graphs: bool  # one a batch, captured here


class DeviceLoops(ABC, Generic[W]):
    """Opens the loop for a batch size and guidance; keeps the last one with its memory and its graphs."""

    def __init__(self, bundle: Bundle, networks: Networks) -> None:
        self._bundle, self.networks = bundle, networks
        self._device: Device | None = None
        self._loop: DeviceLoop[W] | None = None
        self._tried: set[SamplingPlan] = set()
        self._refusal: str | None = None  # why no graph is captured

    @abstractmethod
    def _work(self, batch: int, guided: bool, on: Ground) -> W:
        """Batches of `batch` samples; DeviceMemoryError where there is no room."""

    def device(self) -> Device:
        """The device, opened at the first call."""
        if self._device is None:
            self._device = self.networks.open_device()
        return self._device

    def default_samples(self, guided: bool) -> int:
        """Samples of a batch where none are asked for: by the model and the card's memory."""
        with self.device().current():
            _, total = self.device().memory()
        return default_samples(self._bundle, guided, total, self.networks.precision)

    def refuse_graphs(self, reason: str) -> None:
        """Launch without graphs, as another process of the same run found that it must."""
        self._refusal = reason
        self.networks.refuse_graphs(reason)
        self._loop = None
        self._tried.clear()

    def open(self, batch: int, plan: SamplingPlan) -> DeviceLoop[W]:
        """A loop that has run this plan once: its memory is there, its networks are warm, its graphs are captured.

        Where the device captures no graph of it, the same launches are queued one by one.

        Raises:
            DeviceMemoryError: a batch of this size does not fit.
            BackendUnavailableError: device, networks or kernels cannot be had.
        """
        with self.device().current():
            loop, guided = self._loop, plan.guidance is not None
            if loop is None or (loop.work.shape.samples, loop.work.shape.guided) != (batch, guided):
                self._loop = loop = None  # its memory goes before the next is allocated
                self._tried.clear()
            try:
                return self._ready(loop, batch, plan)
            except GraphError as error:
                loop = None
                self.refuse_graphs(str(error))
            return self._ready(None, batch, plan)

    def _ready(self, loop: DeviceLoop[W] | None, batch: int, plan: SamplingPlan) -> DeviceLoop[W]:
        try:
            loop = loop or self._build(batch, plan.guidance is not None)
            if plan not in self._tried:
                loop.work.try_out(plan)
        except DeviceMemoryError as error:
            self._loop = None
            raise DeviceMemoryError(f"batch size {batch} does not fit: {error}") from error
        self._loop = loop
        self._tried.add(plan)
        return loop

    def _build(self, batch: int, guided: bool) -> DeviceLoop[W]:
        device = self.device()
        require_room(self._bundle, batch, guided, *device.memory(), self.networks.precision)
        streams = (device.stream(), device.stream())
        components = self.networks.components(device_rows(self._bundle.manifest, batch, guided), device, streams)
        launching = _launching(components) if self._refusal is None else Launching("launches", self._refusal)
        whole = launching.kind == "graph"
        work = self._work(batch, guided, Ground(device, components, streams, use_graphs=whole))
        reason = {
            "graph": f"captured on {device.name}",
            "graphs": f"each network a graph of its runtime on {device.name}",
            "launches": f"{device.name} captures no graph: {launching.reason}",
        }
        return DeviceLoop(device, work, launching.kind, reason[launching.kind])


def _launching(components: Mapping[str, DeviceNetwork]) -> Launching:
    """How the denoisers' runs may be launched: as the least of them."""
    found = [network.launching for name, network in components.items() if name in STAGES]
    return next((launching for launching in found if launching.kind == "launches"), found[0])


@runtime_checkable
class OnDevice(Protocol):
    """A backend on a device, which has the sampling loop there."""

    loops: DeviceLoops[Any]
