"""The machine that is measured: how fast it multiplies, and what else it was doing meanwhile."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..engine.processor import available_threads, cpu_name, has_bf16
from ..kernels.launcher import GpuUnavailableError, cuda_driver

BUSY_CORES = 0.1  # a measurement during which other processes took more is marked
FMA_SOURCE = Path(__file__).parent / "fma_peak.c"
FMA_RUNS = 5
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class FmaPeak:
    """Multiply-add rate of the processor in float32, one multiply-add counted as two operations."""

    gflops: float | None  # None: not measured
    how: str


@dataclass(frozen=True)
class Machine:
    """What a figure belongs to."""

    cpu: str
    threads: int
    memory_gib: float
    bf16: bool
    gpu: str | None
    fma_peak: FmaPeak
    gpu_memory_gib: float | None = None
    gpu_driver: str | None = None


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU."""

    name: str
    memory_gib: float | None  # None: nvidia-smi does not say
    driver: str


class OtherLoad:
    """Cores that processes other than this one and its finished children took since `start`."""

    def __init__(self) -> None:
        self._at = (0.0, 0.0, 0.0)
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self._at = self._now()

    def cores(self) -> float:
        """Average number of cores since the start."""
        (wall, busy, own), (wall_0, busy_0, own_0) = self._now(), self._at
        return max(0.0, (busy - busy_0) - (own - own_0)) / max(wall - wall_0, 1e-9)

    @staticmethod
    def _now() -> tuple[float, float, float]:
        fields = [int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        busy = (sum(fields) - fields[3] - fields[4]) / _TICKS  # without idle and iowait; steal counts as taken
        own = os.times()
        return time.perf_counter(), busy, own.user + own.system + own.children_user + own.children_system


def describe_machine(device: str = "cpu") -> Machine:
    """Measure and name this machine, of its GPUs that of `device` (`cpu`: the first); takes a second or two."""
    threads = available_threads()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = find_gpu(device)
    found = (None, None, None) if gpu is None else (gpu.name, gpu.memory_gib, gpu.driver)
    peak = measure_fma_peak(threads)
    return Machine(cpu_name(), threads, round(memory, 1), has_bf16(), found[0], peak, *found[1:])


def operating_system() -> str:
    """The system, its kernel's number and the architecture; no name of the machine, nor of who built the kernel."""
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    kernel = re.match(r"[\d.]*\d", platform.release())
    return f"{system}, kernel {kernel[0] if kernel else 'unknown'}, {platform.machine()}"


def find_gpu(device: str) -> Gpu | None:
    """The NVIDIA GPU of `cuda` or `cuda:I` as the driver numbers them, of `cpu` the first; None without one."""
    if device == "cpu":
        return _listed_gpu([])
    try:
        driver = cuda_driver()
        one = driver.Device(int(device.partition(":")[2] or 0))
    except GpuUnavailableError:
        return None
    version = driver.get_driver_version()
    told = Gpu(str(one.name()), round(one.total_memory() / 2**30, 1), f"CUDA {version // 1000}.{version % 1000 // 10}")
    return _listed_gpu([f"--id={one.pci_bus_id()}"]) or told


def _listed_gpu(which: list[str]) -> Gpu | None:
    """The first GPU that nvidia-smi lists; None where there is no such program, or it lists none."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", *which, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    lines = found.stdout.strip().splitlines()
    if found.returncode or not lines or lines[0].count(",") != 2:
        return None
    name, mebibytes, driver = (cell.strip() for cell in lines[0].split(","))
    return Gpu(name, round(int(mebibytes) / 1024, 1) if mebibytes.isdecimal() else None, driver)


def measure_fma_peak(threads: int) -> FmaPeak:
    """The best of a few runs of a C loop that does nothing but multiply-adds in registers, on `threads` threads."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return FmaPeak(None, "no C compiler here, so the multiply-add peak is not measured")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "fma_peak"
        build = [compiler, "-O2", "-march=native", "-pthread", str(FMA_SOURCE), "-o", str(program)]
        made = subprocess.run(build, capture_output=True, text=True, check=False)
        if made.returncode:
            return FmaPeak(None, f"{compiler} could not build the multiply-add loop: {made.stderr.strip()[:200]}")
        runs = [
            subprocess.run([str(program), str(threads)], capture_output=True, text=True, check=True).stdout
            for _ in range(FMA_RUNS)
        ]
    return FmaPeak(max(map(float, runs)), f"C loop of vector multiply-adds, {threads} threads, best of {FMA_RUNS}")
