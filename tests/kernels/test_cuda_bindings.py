"""The real cuda-bindings, called as on a GPU, on a libcuda whose device is the CPU."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.support.fake_cuda import run_on_fake_cuda

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here"),
    pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings is not here"),
    pytest.mark.skipif(importlib.util.find_spec("pycuda") is not None, reason="PyCUDA is taken where it is here"),
]


def run(kernel_folder: Path, script: str, **environment: str) -> str:
    done = run_on_fake_cuda(kernel_folder, script, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_kernel_is_launched_with_what_it_takes(kernel_folder: Path) -> None:
    """Parameters, grids, copies and streams reach the driver as `KernelCall` says them."""
    said = run(
        kernel_folder,
        """
from sbldm.benchmarks import kernel_checks as checks
from sbldm.engine.cuda.gpu import CudaDevice
device = CudaDevice()
with device.current():
    for check in (checks.check_words, checks.check_initial, checks.check_ddim, checks.check_dpmpp):
        check(device, 63)
    checks.check_assemble(device, (5, 3, 2))
    checks.check_statistics(device, (5, 3, 2))
print(device.name, device.model, sep="|")
""",
    )
    assert said.strip() == "Fake GPU (sm_90)|Fake GPU"


def test_memory_goes_back_and_its_shortage_is_told_with_figures(kernel_folder: Path) -> None:
    said = run(
        kernel_folder,
        """
from sbldm.engine.cuda.gpu import CudaDevice
from sbldm.engine.errors import DeviceMemoryError
device = CudaDevice()
with device.current():
    before = device.memory()
    buffer = device.allocate((1024, 1024), "float32")
    assert device.memory() == (before[0] - 2**22, before[1])
    try:
        device.allocate((1024, 1024), "float64")
    except DeviceMemoryError as error:
        print(error)
    del buffer
    assert device.memory() == before
""",
        FAKE_CUDA_MEMORY=str(10 * 2**20),
    )
    assert "no room for 8 MiB (6 of 10 MiB free)" in said


def test_a_capture_that_fails_ends_and_the_stream_goes_on(kernel_folder: Path) -> None:
    """Whatever raises: an error of ours, of the driver, or one that nobody expected."""
    said = run(
        kernel_folder,
        """
import numpy as np
from sbldm.engine.cuda.device import GraphError
from sbldm.engine.cuda.gpu import CudaDevice
from sbldm.engine.errors import BackendUnavailableError, DeviceMemoryError
from sbldm.kernels.calls import clip_image_call
device = CudaDevice()

def fail(error):
    raise error

with device.current():
    stream = device.stream()
    values = device.allocate((8,), "float32")
    clip = lambda: device.launch(clip_image_call(8, image=values.address), stream)
    device.upload(values, np.full(8, 5.0, np.float32), stream)
    for error in (BackendUnavailableError("ours"), device._driver.Error("theirs"), DeviceMemoryError("full"),
                  KeyError("odd"), KeyboardInterrupt()):
        try:
            device.capture(stream, lambda: (clip(), fail(error)))
        except BaseException as told:
            print(type(told).__name__, told)
    graph = device.capture(stream, clip)
    device.replay(graph, stream)
    found = device.pinned((8,), "float32")
    device.download(values, found, stream)
    device.synchronize(device.record(stream))
    assert (found == 1.0).all(), found
""",
    )
    assert said.splitlines() == ["GraphError ours", "GraphError theirs", "DeviceMemoryError full", "KeyError 'odd'",
                                 "KeyboardInterrupt "]  # fmt: skip


def test_without_a_driver_it_says_so() -> None:
    from sbldm.kernels.launcher import GpuUnavailableError, cuda_driver

    with pytest.raises(GpuUnavailableError, match="the NVIDIA driver does not start: cuInit"):
        cuda_driver()
