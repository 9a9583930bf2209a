"""Runs the .cu files on the CPU: compiled by g++ behind `cpu_shim.h`, launched with the arguments a GPU would get."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

from filelock import FileLock
from sbldm.engine.files import sha256_file
from sbldm.kernels.compile import ENTRIES, KernelCompileError, source_hash, source_path, write_whole

SHIM = Path(__file__).parent / "cpu_shim.h"


class CpuLauncher:
    """Launches kernels by name; `folder` keeps the compiled libraries, by source hash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._libraries: dict[str, ctypes.CDLL] = {}

    def launch(
        self,
        entry: str,
        grid: tuple[int, int],
        threads: int,
        parameters: bytes,
        reverse: bool = False,
    ) -> None:
        """Runs every thread of every block; ValueError where the struct's size is not the kernel's.

        `reverse` runs the threads of a block backwards. KernelCompileError carries the compiler's message.
        """
        library = self._library(ENTRIES[entry])
        ctypes.c_int.in_dll(library, "shim_reverse_order").value = int(reverse)
        size = ctypes.c_uint.in_dll(library, f"{entry}_size").value
        if len(parameters) != size:
            raise ValueError(f"{entry} takes a struct of {size} bytes, not {len(parameters)}")
        getattr(library, f"{entry}_launch")((ctypes.c_uint * 2)(*grid), ctypes.c_uint(threads), parameters)

    def _library(self, source: str) -> ctypes.CDLL:
        if source not in self._libraries:
            path = self._folder / f"{source}-{source_hash(source)[:32]}-{sha256_file(SHIM)[:32]}.so"
            with FileLock(path.with_suffix(".lock")):
                if not path.is_file():
                    write_whole(path, _compile(source))
            self._libraries[source] = ctypes.CDLL(str(path))
        return self._libraries[source]


def _compile(source: str) -> bytes:
    """The shared library of a source."""
    includes = ["-I", str(source_path(source).parent), "-I", str(SHIM.parent)]
    options = [
        "-std=c++17",
        "-O1",
        "-shared",
        "-fPIC",
        "-ffp-contract=off",
        "-U_FORTIFY_SOURCE",
        "-Wall",
        "-Wno-unknown-pragmas",
    ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernel.so"
        command = ["g++", *options, "-x", "c++", *includes, str(source_path(source)), "-o", str(out)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise KernelCompileError("g++ is not installed") from error
        if done.returncode:
            raise KernelCompileError(f"g++ on {source}.cu:\n{done.stderr.strip()}")
        return out.read_bytes()
