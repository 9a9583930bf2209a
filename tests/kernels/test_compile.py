"""Every kernel compiles for every architecture without a GPU and spills no register."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from sbldm.kernels import compile as kernel_compile
from sbldm.kernels.compile import ARCHITECTURES, ENTRIES, SOURCES, KernelCompileError, source_path

COMPILERS = kernel_compile.available_compilers()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES)
def test_every_architecture_without_spills(source: str, architecture: int) -> None:
    if not COMPILERS:
        pytest.skip("neither NVRTC nor nvcc is here")
    cubin = kernel_compile.compile_cubin(source_path(source), architecture)
    assert cubin.code.startswith(b"\x7fELF")
    entries = {name for name, where in ENTRIES.items() if where == source}
    assert set(re.findall(r"Compiling entry function '(\w+)'", cubin.log)) == entries
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", cubin.log)
    assert spills == [("0", "0", "0")] * len(entries)


@pytest.mark.parametrize("source", SOURCES)
def test_the_bare_nvcc_command_line(source: str, tmp_path: Path) -> None:
    if "nvcc" not in COMPILERS:
        pytest.skip("no nvcc on PATH")
    path, out = source_path(source), tmp_path / "kernel.cubin"
    subprocess.run(["nvcc", "-arch=sm_90", "-cubin", "-I", str(path.parent), str(path), "-o", str(out)], check=True)
    assert out.stat().st_size > 0


@pytest.mark.parametrize("compiler", ["nvrtc", "nvcc"])
def test_a_failure_carries_the_compilers_message(compiler: kernel_compile.Compiler, tmp_path: Path) -> None:
    if compiler not in COMPILERS:
        pytest.skip(f"no {compiler} here")
    broken = tmp_path / "broken.cu"
    broken.write_text('extern "C" __global__ void broken(int* x) { *x = undeclared; }')
    with pytest.raises(KernelCompileError, match=r"broken\.cu for sm_90:\n(.|\n)*undeclared"):
        kernel_compile.compile_cubin(broken, 90, compiler)


def test_no_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_compile, "available_compilers", lambda: ())
    with pytest.raises(KernelCompileError, match=r"pip install"):
        kernel_compile.compile_cubin(source_path("noise"), 90)


def test_the_cache_compiles_once_and_again_for_changed_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fake(path: Path, architecture: int, compiler: object = None) -> kernel_compile.Cubin:
        calls.append((path.name, architecture))
        return kernel_compile.Cubin(f"{path.name} {architecture}".encode(), "")

    monkeypatch.setattr(kernel_compile, "compile_cubin", fake)
    for _ in range(2):
        assert kernel_compile.cached_cubin("noise", 90, tmp_path) == b"noise.cu 90"
        assert kernel_compile.cached_cubin("noise", 80, tmp_path) == b"noise.cu 80"
    assert calls == [("noise.cu", 90), ("noise.cu", 80)]
    monkeypatch.setattr(kernel_compile, "source_hash", lambda source: "f" * 64)
    kernel_compile.cached_cubin("noise", 90, tmp_path)
    assert len(calls) == 3
    assert not list(tmp_path.glob("*.tmp"))


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(kernel_compile, "compile_cubin", lambda *_: kernel_compile.Cubin(b"code", ""))
    assert kernel_compile.cached_cubin("noise", 90, tmp_path / "file" / "below") == b"code"


def test_cubins_built_ahead_are_found_by_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = kernel_compile.Cubin(b"built ahead", "")
    monkeypatch.setattr(kernel_compile, "compile_cubin", lambda *_: built)
    assert len(kernel_compile.build_cubins([80, 90], tmp_path)) == 2 * len(SOURCES)
    monkeypatch.setattr(kernel_compile, "compile_cubin", None)
    assert kernel_compile.cached_cubin("statistics", 80, tmp_path) == b"built ahead"


def test_the_hash_covers_the_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = source_path("noise").parent
    for path in (*folder.glob("*.cu"), *folder.glob("*.cuh"), *folder.glob("*.h")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    original = kernel_compile.source_hash("noise")
    monkeypatch.setattr(kernel_compile, "_FOLDER", tmp_path)
    assert kernel_compile.source_hash("noise") == original
    with (tmp_path / "philox.cuh").open("a") as header:
        header.write("// changed\n")
    assert kernel_compile.source_hash("noise") != original
