"""The processor that this process runs on: its name, what it can do, how much of it is ours."""

from __future__ import annotations

import platform
from pathlib import Path

from .portable import allowed_cpus

_CPUINFO = Path("/proc/cpuinfo")
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


def available_threads() -> int:
    """CPUs that this process may use."""
    return allowed_cpus()


def cpu_name() -> str:
    """The processor's model name."""
    return _first("model name") or platform.processor()


def cpu_flags() -> frozenset[str]:
    """Instruction sets as Linux names them; empty where it does not tell."""
    return frozenset(_first("flags").split())


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 in hardware (AVX-512 or AMX)."""
    return bool(_BF16_FLAGS & cpu_flags())


def _first(field: str) -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")
