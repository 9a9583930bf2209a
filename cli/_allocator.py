"""Memory settings of a training on a CPU, which the C library reads once, at the start of a process.

A training step frees and takes back the same hundreds of megabytes; by default glibc returns them to the system each
time, which then has to clear every page anew.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

SETTLED = "SBLDM_ALLOCATOR"  # set in a process that was started with the settings, or that is to be left as it is
SETTINGS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000000"}
_ACCELERATORS = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


def settle_allocator(arguments: Sequence[str]) -> None:
    """Start a training on a CPU again, as the same process, with memory settings that keep freed memory.

    For the entry point, before anything else. Does nothing for other commands, on systems without glibc, beside an
    accelerator, or where SBLDM_ALLOCATOR is set; a setting that is there already stays.
    """
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    if command != "train" or SETTLED in os.environ or not sys.executable or platform.libc_ver()[0] != "glibc":
        return
    if any(device.exists() for device in _ACCELERATORS):
        return
    environment = {**SETTINGS, **os.environ, SETTLED: "kept"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
