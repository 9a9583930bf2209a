"""A machine whose libcuda and libnvidia-ml are stand-ins of this folder: what runs there calls the real bindings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sbldm.kernels.compile import SOURCES, source_hash

from tests.support.cpu_launcher import CpuLauncher

SOURCE = Path(__file__).parent / "fake_libcuda.cpp"
NVML = SOURCE.with_name("fake_libnvml.cpp")


def write_fake_cubins(folder: Path, cache: Path) -> None:
    """What `cached_cubin` finds for sm_90: the paths of the kernels that g++ compiled into `folder`."""
    launcher = CpuLauncher(folder)
    cache.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        library = Path(launcher._library(source)._name)
        (cache / f"{source}-{source_hash(source)[:32]}-sm_90.cubin").write_bytes(bytes(library) + b"\0")


def fake_cuda(folder: Path) -> dict[str, str]:
    """The environment of a process that finds the stand-ins, compiled into `folder` once, and their cubins."""
    library = folder / "libcuda" / "libcuda.so.1"
    if not library.is_file():
        library.parent.mkdir(parents=True, exist_ok=True)
        for source, made in ((NVML, library.with_name("libnvidia-ml.so.1")), (SOURCE, library)):
            subprocess.run(["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-o", made, source], check=True)
        write_fake_cubins(folder, folder / "cache" / "sbldm-engine" / "kernels")
    found = os.environ.get("LD_LIBRARY_PATH", "")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": f"{library.parent}:{found}",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


def run_on_fake_cuda(folder: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python script in a process of its own on that machine."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**fake_cuda(folder), **environment},
        cwd=SOURCE.parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
