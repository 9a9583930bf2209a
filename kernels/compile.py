"""Compiles the .cu files beside it: NVRTC or nvcc for a GPU architecture, cached on disk, or ahead of time for many."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
"""Compute capabilities (major * 10 + minor) that cubins are built for ahead of time."""

_FOLDER = Path(__file__).parent

ENTRIES = {
    "initial_latent": "noise",
    "philox_words": "noise",
    "ddim_step": "ddim_step",
    "dpmpp_2m_step": "dpmpp_2m_step",
    "assemble": "assemble",
    "one_hot": "assemble",
    "clip_image": "assemble",
    "statistics_blocks": "statistics",
    "statistics_finish": "statistics",
}
"""Kernel name -> the .cu file that defines it."""

SOURCES = tuple(dict.fromkeys(ENTRIES.values()))
"""Names of the .cu files."""

Compiler = Literal["nvrtc", "nvcc"]


class KernelCompileError(RuntimeError):
    """A kernel did not compile; the message carries the compiler's own."""


@dataclass(frozen=True)
class Cubin:
    """One compiled .cu file and what the compiler said (with register and spill counts)."""

    code: bytes
    log: str


def source_path(source: str) -> Path:
    """The .cu file of a name in `SOURCES`."""
    return _FOLDER / f"{source}.cu"


def source_hash(source: str) -> str:
    """SHA-256 over the .cu file and every header of the folder."""
    digest = hashlib.sha256(source_path(source).read_bytes())
    for header in sorted(_FOLDER.glob("*.cuh")):
        digest.update(header.name.encode() + b"\0" + header.read_bytes())
    return digest.hexdigest()


def available_compilers() -> tuple[Compiler, ...]:
    """Which compilers are here, the preferred one first."""
    found: list[Compiler] = []
    if _nvrtc_problem() is None:
        found.append("nvrtc")
    if shutil.which("nvcc"):
        found.append("nvcc")
    return tuple(found)


def require_compiler() -> Compiler:
    """The preferred compiler; KernelCompileError, which says what to install, where there is none."""
    compilers = available_compilers()
    if not compilers:
        raise KernelCompileError(
            f'no CUDA compiler: {_nvrtc_problem()}, and no nvcc on PATH. Install one: pip install "sbldm-engine[gpu]"'
        )
    return compilers[0]


def compile_cubin(path: Path, architecture: int, compiler: Compiler | None = None) -> Cubin:
    """Compiles one .cu file for a compute capability such as 90.

    KernelCompileError carries the compiler's message, or says what to install where there is no compiler.
    """
    if compiler is None:
        compiler = require_compiler()
    return _with_nvrtc(path, architecture) if compiler == "nvrtc" else _with_nvcc(path, architecture)


def cached_cubin(source: str, architecture: int, cache: Path | None = None) -> bytes:
    """The cubin of a source for an architecture, compiled once and kept under the user's cache directory."""
    folder = default_cache() if cache is None else cache
    path = folder / f"{source}-{source_hash(source)[:32]}-sm_{architecture}.cubin"
    if path.is_file():
        return path.read_bytes()
    code = compile_cubin(source_path(source), architecture).code
    with suppress(OSError):  # only costs time at the next start
        write_whole(path, code)
    return code


def build_cubins(architectures: Iterable[int], out: Path) -> list[Path]:
    """Compiles every source for every architecture into `out`, under the names that `cached_cubin` looks for."""
    written = []
    for architecture in architectures:
        for source in SOURCES:
            path = out / f"{source}-{source_hash(source)[:32]}-sm_{architecture}.cubin"
            write_whole(path, compile_cubin(source_path(source), architecture).code)
            written.append(path)
    return written


def default_cache() -> Path:
    """The user's cache directory for compiled kernels."""
    from platformdirs import user_cache_path

    return user_cache_path("sbldm-engine") / "kernels"


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _with_nvcc(path: Path, architecture: int) -> Cubin:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernel.cubin"
        command = ["nvcc", f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v", "-I", str(_FOLDER), str(path)]
        done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True, check=False)
        log = done.stdout + done.stderr
        if done.returncode:
            raise KernelCompileError(f"nvcc cannot compile {path.name} for sm_{architecture}:\n{log.strip()}")
        return Cubin(out.read_bytes(), log)


def _nvrtc_problem() -> str | None:
    """Why NVRTC cannot be used, or None."""
    try:
        nvrtc = import_module("cuda.bindings.nvrtc")
    except ImportError:
        return "cuda-bindings is not installed"
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:
        return f"the NVRTC library does not load ({str(error).splitlines()[0]})"
    return None


def _with_nvrtc(path: Path, architecture: int) -> Cubin:
    nvrtc = import_module("cuda.bindings.nvrtc")

    def checked(result: tuple[Any, ...]) -> Any:
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise KernelCompileError(f"NVRTC, {path.name} for sm_{architecture}: {result[0].name}")
        return result[1] if len(result) > 1 else None

    program = checked(nvrtc.nvrtcCreateProgram(path.read_bytes(), path.name.encode(), 0, [], []))
    try:
        options = [f"--gpu-architecture=sm_{architecture}", f"--include-path={_FOLDER}", "--ptxas-options=-v"]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        log = b" " * int(checked(nvrtc.nvrtcGetProgramLogSize(program)))
        checked(nvrtc.nvrtcGetProgramLog(program, log))
        text = log.rstrip(b"\0 ").decode(errors="replace")
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise KernelCompileError(f"NVRTC cannot compile {path.name} for sm_{architecture}:\n{text.strip()}")
        code = b" " * int(checked(nvrtc.nvrtcGetCUBINSize(program)))
        checked(nvrtc.nvrtcGetCUBIN(program, code))
        return Cubin(code, text)
    finally:
        nvrtc.nvrtcDestroyProgram(program)
