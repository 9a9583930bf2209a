"""The .cu files, compiled by g++ and run on the CPU, against their NumPy references."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from sbldm.benchmarks.kernel_checks import Check, all_checks
from sbldm.kernels.calls import THREADS, VolumeShape, assemble_call, statistics_blocks_count, statistics_calls
from sbldm.kernels.compile import KernelCompileError

from tests.support.cpu_launcher import CpuLauncher
from tests.support.host_device import HostDevice

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not here")


@pytest.fixture(scope="module")
def device(kernel_folder: Path) -> HostDevice:
    return HostDevice(kernel_folder, memory=2**40)


@pytest.mark.parametrize("check", list(all_checks()), ids=lambda check: check.name)
def test_kernel_matches_reference(check: Check, device: HostDevice) -> None:
    check.run(device)


@pytest.fixture(scope="module")
def launcher(kernel_folder: Path) -> CpuLauncher:
    return CpuLauncher(kernel_folder)


def address(values: np.ndarray) -> int:
    return values.ctypes.data


def test_assemble_and_statistics_do_not_depend_on_the_order_of_threads(launcher: CpuLauncher) -> None:
    random = np.random.default_rng(0)
    x, y, z = 9, 31, 70
    image = random.uniform(-1, 1, (z, 2, x, y)).astype(np.float32)
    logits = random.standard_normal((z, 3, x, y)).astype(np.float32)
    image[3, 1, 2, 3] = np.nan
    shape = VolumeShape(2, 3, (x, y, z))
    outputs = []
    for reverse in (False, True):
        images, labels = np.full((2, x, y, z), -1, np.int16), np.full((x, y, z), 255, np.uint8)
        failed = np.zeros(1, np.uint32)
        partial = np.full((2, statistics_blocks_count(shape.voxels), 4), -1, np.int32)
        rows = np.full((2, 4), -1, np.int32)
        call = assemble_call(
            shape, 1, 0.1, image=address(image), logits=address(logits), images=address(images),
            labels=address(labels), failed=address(failed),
        )  # fmt: skip
        counts = statistics_calls(shape.voxels, 2, values=address(images), partial=address(partial), rows=address(rows))
        for launch in (call, *counts):
            launcher.launch(launch.entry, launch.grid, THREADS, launch.parameters, reverse)
        outputs.append((images.tobytes(), labels.tobytes(), rows.tobytes(), failed.tobytes()))
    assert outputs[0] == outputs[1]


def test_a_grid_smaller_than_the_work_gives_the_same(launcher: CpuLauncher) -> None:
    random = np.random.default_rng(1)
    x, y, z = 17, 20, 40
    image = random.uniform(-1, 1, (z, 1, x, y)).astype(np.float32)
    logits = random.standard_normal((z, 2, x, y)).astype(np.float32)
    outputs = []
    for grid in ((1, 1), (5, 1), (64, 1)):
        images, labels = np.full((1, x, y, z), -1, np.int16), np.full((x, y, z), 255, np.uint8)
        failed = np.zeros(1, np.uint32)
        call = assemble_call(
            VolumeShape(1, 2, (x, y, z)), 1, 0.1, image=address(image), logits=address(logits),
            images=address(images), labels=address(labels), failed=address(failed),
        )  # fmt: skip
        launcher.launch(call.entry, grid, THREADS, call.parameters)
        outputs.append(images.tobytes() + labels.tobytes())
    assert outputs[0] == outputs[1] == outputs[2]


def test_compile_failure_carries_the_compilers_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "noise.cu"
    broken.write_text("void f() { undeclared(); }")
    monkeypatch.setattr("tests.support.cpu_launcher.source_path", lambda source: broken)
    with pytest.raises(KernelCompileError, match="undeclared"):
        CpuLauncher(tmp_path).launch("philox_words", (1, 1), THREADS, b"")
