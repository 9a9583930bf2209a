"""Joules of processor and GPU, from the counters that they keep.

Processor: RAPL, which Linux shows as `powercap` (Intel's driver serves AMD's processors, too): the packages, and the
memory beside them where it has a counter. `psys` and `intel-rapl-mmio` count the same joules again and are left out.
GPU: NVML's counter of the whole board (Volta and later). Both hold what idles and what others do meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..kernels.launcher import GpuUnavailableError, cuda_driver

POWERCAP = Path("/sys/class/powercap")
MOST_WATTS = 600  # of a package: a run during which a counter may have begun anew more than once is not told
ABSENT = "not measurable here: "
_MICRO, _MILLI = 1e-6, 1e-3


@dataclass(frozen=True)
class Counter:
    """A counter of energy that only grows, up to where it begins anew."""

    joules: Callable[[], float]
    range: float | None = None  # joules after which it begins anew; None: it does not

    def difference(self, before: float, after: float) -> float:
        """Joules between two readings, of which the counter began anew once at most."""
        return after - before if self.range is None or after >= before else after - before + self.range


@dataclass(frozen=True)
class Source:
    """The counters of a part of the machine; without any, `how` says why."""

    how: str
    counters: tuple[Counter, ...] = ()
    faults: tuple[type[Exception], ...] = ()  # that reading them raises once they are gone


class EnergyMeter:
    """Reads all counters that are here, by part: `cpu`, `gpu`."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = {part: source for part, source in sources.items() if source.counters}
        self.how = {part: source.how for part, source in sources.items()}

    def read(self) -> dict[str, list[float]]:
        """The readings now; a part whose counters are gone is left out."""
        found: dict[str, list[float]] = {}
        for part, source in self._sources.items():
            with suppress(*source.faults):
                found[part] = [counter.joules() for counter in source.counters]
        return found

    def since(self, before: Mapping[str, list[float]], seconds: float) -> dict[str, float]:
        """Joules since earlier readings; a part whose counters may have begun anew twice by now is left out."""
        now, found = self.read(), {}
        for part in before.keys() & now.keys():
            counters = self._sources[part].counters
            if all(c.range is None or MOST_WATTS * seconds <= c.range for c in counters):
                pairs = zip(counters, before[part], now[part], strict=True)
                found[part] = sum(counter.difference(*readings) for counter, *readings in pairs)
        return found


def open_meter(device: str) -> EnergyMeter:
    """The meter of this machine for work on `cpu`, `cuda` or `cuda:I`; what cannot be read is left out and told."""
    return EnergyMeter({"cpu": cpu_source(), "gpu": gpu_source(device)})


def cpu_source(folder: Path = POWERCAP) -> Source:
    """RAPL's counters of all packages and of their memory."""
    zones = {zone: _text(zone / "name") for zone in sorted(folder.glob("intel-rapl:*"))}
    wanted = {zone: name for zone, name in zones.items() if name.startswith("package") or name == "dram"}
    if not wanted:
        return Source(f"{ABSENT}no RAPL counter in {folder}: a virtual machine, another system, or no driver")
    counters = []
    for zone in wanted:
        try:
            counters.append(_rapl(zone))
        except PermissionError:
            return Source(
                f"{ABSENT}{folder}/{zone.name}/energy_uj is readable by root alone on this system; run as root, or "
                f"`sudo chmod a+r {folder}/intel-rapl:*/energy_uj` until the next start"
            )
        except (OSError, ValueError) as error:
            return Source(f"{ABSENT}{folder}/{zone.name}: {error}")
    return Source(f"RAPL: {', '.join(wanted.values())}", tuple(counters), (OSError, ValueError))


def _rapl(zone: Path) -> Counter:
    """The counter of a zone, which was read once; OSError or ValueError where it cannot be."""
    file = zone / "energy_uj"

    def joules() -> float:
        return _MICRO * int(file.read_text(encoding="ascii"))

    joules()
    return Counter(joules, _MICRO * int((zone / "max_energy_range_uj").read_text(encoding="ascii")))


def _text(file: Path) -> str:
    with suppress(OSError):
        return file.read_text(encoding="utf-8").strip()
    return ""


def gpu_source(device: str) -> Source:
    """NVML's counter of the GPU that a run is asked for."""
    if device == "cpu":
        return Source("not measured: the processor's work was benchmarked")
    try:
        import pynvml
    except ImportError:
        return Source(f'{ABSENT}nvidia-ml-py is missing: pip install "sbldm-engine[energy]"')
    try:
        bus_id = cuda_driver().Device(int(device.partition(":")[2] or 0)).pci_bus_id()
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(bus_id)

        def joules() -> float:
            return _MILLI * pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)

        joules()
    except (GpuUnavailableError, pynvml.NVMLError) as error:
        return Source(f"{ABSENT}{error}")
    return Source("NVML: the whole board", (Counter(joules),), (pynvml.NVMLError,))
