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


def test_what_goes_outside_of_its_context_or_in_another_thread_goes_back_too(kernel_folder: Path) -> None:
    """The driver frees nothing without a context, and says so to nobody."""
    said = run(
        kernel_folder,
        """
import threading
from sbldm.engine.cuda.gpu import CudaDevice
device = CudaDevice()
with device.current():
    before = device.memory()
    kept = [device.allocate((1024,), "float32") for _ in range(2)]
kept.pop()
thread = threading.Thread(target=kept.clear)
thread.start()
thread.join()
with device.current():
    print(before[0] - device.memory()[0])
""",
    )
    assert said.strip() == "0"


def test_who_waits_for_the_gpu_leaves_its_core_and_the_interpreter_to_others(kernel_folder: Path) -> None:
    said = run(
        kernel_folder,
        """
import threading, time
from sbldm.engine.cuda.gpu import CudaDevice
device, turns = CudaDevice(), 0
with device.current():
    event = device.record(device.stream())
    waiting = threading.Thread(target=device.synchronize, args=(event,))
    waiting.start()
    while waiting.is_alive():
        turns += 1
        time.sleep(0.001)
    try:
        event.time_since(event)
    except device._driver.Error as error:
        print(error)
assert turns > 20, turns
""",
        FAKE_CUDA_WAIT_MS="300",
    )
    assert "cuEventElapsedTime failed: CUDA_ERROR_INVALID_HANDLE" in said


def test_a_capture_that_fails_ends_and_the_stream_goes_on(kernel_folder: Path) -> None:
    """Whatever raises: an error of ours, of the driver, or one that nobody expected."""
    said = run(
        kernel_folder,
        """
import ctypes
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
    assert ctypes.CDLL("libcuda.so.1").fake_graphs() == 0
    found = device.pinned((8,), "float32")
    device.download(values, found, stream)
    device.synchronize(device.record(stream))
    assert (found == 1.0).all(), found
""",
    )
    assert said.splitlines() == ["GraphError ours", "GraphError theirs", "DeviceMemoryError full", "KeyError 'odd'",
                                 "KeyboardInterrupt "]  # fmt: skip


def test_a_kernel_that_failed_is_told_by_the_next_call_as_an_error_of_ours(kernel_folder: Path) -> None:
    said = run(
        kernel_folder,
        """
from sbldm.engine.cuda.gpu import CudaDevice
from sbldm.engine.errors import BackendUnavailableError
device = CudaDevice()
with device.current():
    try:
        device.synchronize(device.record(device.stream()))
    except BackendUnavailableError as error:
        print(error.exit_code, error)
""",
        FAKE_CUDA_FAULT="1",
    )
    assert said.startswith("4 Fake GPU (sm_90) failed: cuEventSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS; a run")


def test_garbage_is_not_collected_in_the_midst_of_a_capture(kernel_folder: Path) -> None:
    """Device memory in a cycle, given back while a stream is captured, would break the capture."""
    run(
        kernel_folder,
        """
import gc
from sbldm.engine.cuda.gpu import CudaDevice
from sbldm.kernels.calls import clip_image_call
device = CudaDevice()
gc.set_threshold(1)
with device.current():
    stream, values = device.stream(), device.allocate((8,), "float32")
    before = device.memory()[0]
    cycle = [device.allocate((1024,), "float32")]
    cycle.append(cycle)
    kept = [cycle]
    del cycle

    def work():
        kept.clear()
        made = [[] for _ in range(1000)]
        assert device.memory()[0] < before
        device.launch(clip_image_call(8, image=values.address), stream)

    device.launch(clip_image_call(8, image=values.address), stream)
    graph = device.capture(stream, work)
    made = [[] for _ in range(1000)]
    gc.collect()
    assert device.memory()[0] == before
""",
    )


def test_without_a_driver_it_says_so() -> None:
    from sbldm.kernels.launcher import GpuUnavailableError, cuda_driver

    with pytest.raises(GpuUnavailableError, match="the NVIDIA driver does not start: cuInit"):
        cuda_driver()
