"""The processor that this process runs on: its name, what it can do, how much of it is ours."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .portable import allowed_cpus

_CPUINFO = Path("/proc/cpuinfo")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
SLURM_CPUS = "SLURM_CPUS_PER_TASK"


@dataclass(frozen=True)
class CpuLimit:
    """How many processors something leaves to this process."""

    threads: int
    rule: str


def cpu_limits() -> list[CpuLimit]:
    """Everything that limits the processors of this process, the tightest first."""
    limits = [CpuLimit(allowed_cpus(), "processors that the scheduler allows (affinity, cpuset, taskset)")]
    limits += [CpuLimit(max(1, math.floor(cpus)), rule) for cpus, rule in (*_quotas_v2(), *_quotas_v1())]
    if (tasks := slurm_cpus()) is not None:
        limits.append(CpuLimit(tasks, SLURM_CPUS))
    return sorted(limits, key=lambda limit: limit.threads)


def available_threads() -> int:
    """Processors that this process may use: affinity, quotas of its cgroups (v1 and v2), Slurm's share."""
    return cpu_limits()[0].threads


def slurm_cpus() -> int | None:
    """Processors of this task under Slurm; None elsewhere. The same for all tasks of a job array."""
    told = os.environ.get(SLURM_CPUS, "")
    return int(told) if told.isascii() and told.isdigit() and int(told) > 0 else None


def cgroup_memory() -> int | None:
    """Bytes that the cgroups of this process (v1 and v2) allow it together with its fellows; None without a limit."""
    files = [folder / "memory.max" for folder in _cgroup_folders("", _CGROUPS)]
    files += [folder / "memory.limit_in_bytes" for folder in _cgroup_folders("memory", _CGROUPS / "memory")]
    limits: list[int] = []
    for file in files:
        with suppress(OSError, ValueError):  # "max" is no number
            limits.append(int(file.read_text(encoding="ascii")))
    return min(limits, default=None)


def cpu_name() -> str:
    """The processor's model name."""
    return _first("model name") or platform.processor()


def cpu_flags() -> frozenset[str]:
    """Instruction sets as Linux names them; empty where it does not tell."""
    return frozenset(_first("flags").split())


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX-512 or AMX)."""
    return bool(_BF16_FLAGS & cpu_flags())


def _quotas_v2() -> Iterator[tuple[float, str]]:
    for levels, folder in enumerate(_cgroup_folders("", _CGROUPS)):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            if quota != "max":
                yield int(quota) / int(period), _quota_rule("v2, cpu.max", levels)


def _quotas_v1() -> Iterator[tuple[float, str]]:
    for levels, folder in enumerate(_cgroup_folders("cpu", _CGROUPS / "cpu")):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
            period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
            if quota > 0:
                yield quota / period, _quota_rule("v1, cpu.cfs_quota_us", levels)


def _quota_rule(file: str, levels: int) -> str:
    """A quota without the folder of its cgroup, which may name a user or a job."""
    return f"quota of the cgroup{f' {levels} above ours' if levels else ''} ({file})"


def _cgroup_folders(controller: str, mount: Path) -> Iterator[Path]:
    """Our cgroup's folder and those above it, whose quotas hold too; the mount alone where ours is not to be seen."""
    try:
        lines = _OWN_CGROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = mount / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount))


def _first(field: str) -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")
