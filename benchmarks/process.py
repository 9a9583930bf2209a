"""A command in a process of its own: its wall time and the most memory that it and its children held."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .machine import OtherLoad

_POLL_S = 0.02


@dataclass(frozen=True)
class ProcessRun:
    """How a command ended."""

    seconds: float
    peak_bytes: int  # resident, of all its processes, as last seen while they ran
    other_cores: float  # that unrelated processes took meanwhile
    exit_code: int
    output: str  # stdout
    errors: str  # stderr


def run_measured(arguments: Sequence[str]) -> ProcessRun:
    """Run `python -m sbldm.cli.main ARGUMENTS...` and wait for its end.

    The peak is the kernel's high-water mark, read while the process lives: that of getrusage would begin with the
    memory of the process that started it.
    """
    command = [sys.executable, "-m", "sbldm.cli.main", *arguments]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        load = OtherLoad()
        start = time.perf_counter()
        peak = 0
        with subprocess.Popen(command, stdout=output, stderr=errors, stdin=subprocess.DEVNULL) as process:
            try:
                while process.poll() is None:
                    peak = max(peak, sum(high_water_bytes(pid) for pid in family(process.pid)))
                    time.sleep(_POLL_S)
            except BaseException:
                process.kill()
                raise
        seconds = time.perf_counter() - start
        others = load.cores()
        output.seek(0)
        errors.seek(0)
        return ProcessRun(seconds, peak, others, process.returncode, output.read(), errors.read())


def family(pid: int) -> list[int]:
    """A process and those that descend from it."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                continue  # it has ended
    return found


def high_water_bytes(pid: int) -> int:
    """The most memory that a process has held until now, 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
