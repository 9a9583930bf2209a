"""What `doctor` says of a GPU's parts: without a driver, and on a fake one."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
from sbldm.engine.cuda import readiness
from sbldm.engine.cuda.readiness import gpu_parts
from sbldm.engine.errors import BackendUnavailableError
from sbldm.kernels.launcher import GpuUnavailableError

from tests.support.fake_cuda import run_on_fake_cuda


def test_every_part_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise GpuUnavailableError("the NVIDIA driver does not start")

    monkeypatch.setattr(readiness, "cuda_driver", missing)
    monkeypatch.setattr(readiness, "installed", lambda _name: None)
    monkeypatch.setattr(readiness, "LIBRARIES", ("libnothing.so.1",))
    found = {part.name: part for part in gpu_parts()}
    assert not found["driver"].there
    assert not found["GPUs"].there
    for name in ("TensorRT", "CUDA libraries"):
        assert not found[name].there
        assert "pip install" in found[name].detail
    assert "libnothing.so.1 not found" in found["CUDA libraries"].detail


@pytest.mark.parametrize(
    ("version", "capability", "part", "told"),
    [
        (12040, (9, 0), "driver", "it knows CUDA 12.4; update it to 580"),
        (13000, (7, 5), "GPUs", "compute capability 7.5 (8.0 is the least)"),
    ],
)
def test_what_is_too_old_is_told(
    monkeypatch: pytest.MonkeyPatch, version: int, capability: tuple[int, int], part: str, told: str
) -> None:
    class Gpu:
        def compute_capability(self) -> tuple[int, int]:
            return capability

        def name(self) -> str:
            return "Old"

        def total_memory(self) -> int:
            return 2**34

    class Driver:
        __name__ = "pycuda.driver"

        class Device:
            count = staticmethod(lambda: 1)

            def __new__(cls, _index: int) -> Any:
                return Gpu()

    monkeypatch.setattr(readiness, "cuda_driver", Driver)
    monkeypatch.setattr(readiness.cuda_bindings, "get_driver_version", lambda: version)
    found = {each.name: each for each in gpu_parts()}
    assert not found[part].there
    assert told in found[part].detail


def test_onnx_runtime_without_cuda_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        @staticmethod
        def get_available_providers() -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(readiness, "import_onnxruntime", Module)
    with pytest.raises(BackendUnavailableError, match="built without CUDA"):
        readiness._onnxruntime()


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")
@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings is not here")
@pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="PyCUDA is taken where it is here")
def test_a_gpu_is_named_with_its_driver_and_memory(kernel_folder: Path) -> None:
    script = "from sbldm.engine.cuda.readiness import gpu_parts\nfor part in gpu_parts()[:2]: print(part)"
    done = run_on_fake_cuda(kernel_folder, script)
    assert done.returncode == 0, done.stderr
    assert "Part(name='driver', there=True, detail='CUDA 13.0, through cuda-bindings')" in done.stdout
    assert "cuda:0 Fake GPU, 1 GiB, compute capability 9.0" in done.stdout
