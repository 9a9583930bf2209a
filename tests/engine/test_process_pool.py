"""Processes beside a device and the memory they share: what they hold, how they end, what is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from sbldm.engine import portable
from sbldm.engine.errors import IncompleteRunError
from sbldm.engine.process_pool import ProcessPool
from sbldm.engine.sampling.ahead import draw_case
from sbldm.engine.shared_blocks import SharedBlocks

from tests.support import pool_work

FIELDS = {"first": ((3,), "uint8"), "second": ((2, 2), "float32")}
GONE_S = 20.0

ORPHANS = """
import threading, time
from sbldm.engine.process_pool import ProcessPool
from sbldm.engine.shared_blocks import SharedBlocks
from tests.support import pool_work
blocks = SharedBlocks({"second": ((2, 2), "float32")}, 2)
pool = ProcessPool(2, blocks)
for number in range(2):
    threading.Thread(target=pool.call, args=(pool_work.stay, number)).start()
while not all(blocks.arrays(number)["second"].any() for number in range(2)):
    time.sleep(0.01)
print(*[helper.process.pid for helper in pool._helpers], flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def blocks() -> SharedBlocks:
    return SharedBlocks(FIELDS, 3)


@pytest.fixture(scope="module")
def pool(blocks: SharedBlocks) -> Iterator[ProcessPool[SharedBlocks]]:
    pool = ProcessPool(1, blocks)
    yield pool
    pool.close()
    assert not any(helper.process.is_alive() for helper in pool._helpers)


def test_processes_write_into_one_block_of_this_ones_memory(
    pool: ProcessPool[SharedBlocks], blocks: SharedBlocks
) -> None:
    pool.call(pool_work.write, 1, 7)
    found = [blocks.arrays(number) for number in range(3)]
    assert [arrays["second"].sum() for arrays in found] == [0, 28, 0]
    assert not any(arrays["first"].any() for arrays in found)
    assert found[0]["second"].ctypes.data % 64 == 0
    assert blocks.nbytes == 3 * 2 * 64


def test_processes_load_no_networks_and_one_thread_of_linear_algebra(pool: ProcessPool[SharedBlocks]) -> None:
    """Of what they are to draw with as well."""
    with pytest.raises(TypeError):
        pool.call(draw_case, 0, None)  # which its module was imported for
    facts = pool.call(pool_work.facts)
    assert facts["pid"] != os.getpid()
    assert "sbldm.engine.sampling.ahead" in facts["modules"]
    assert facts["blas"] == "1"
    unwanted = {"torch", "onnxruntime", "openvino", "cuda", "pycuda", "tensorrt", "sbldm.engine.cuda", "sbldm.cli"}
    assert not unwanted & facts["modules"]


def test_what_a_function_raises_is_raised_and_the_process_goes_on(pool: ProcessPool[SharedBlocks]) -> None:
    with pytest.raises(ValueError, match="a bad field"):
        pool.call(pool_work.fail, "a bad field")
    assert pool.call(pool_work.facts)["pid"] == pool._helpers[0].process.pid


def test_a_process_that_ends_ends_the_calls_that_wait_and_all_later_ones() -> None:
    pool = ProcessPool(1, None)
    try:
        told: list[str] = []

        def ask() -> None:
            with pytest.raises(IncompleteRunError) as error:
                pool.call(pool_work.stay)
            told.append(str(error.value))

        waiting = [threading.Thread(target=ask) for _ in range(2)]  # the second waits for the process to be idle
        for thread in waiting:
            thread.start()
        pool._helpers[0].process.kill()
        for thread in waiting:
            thread.join(GONE_S)
        assert len(told) == 2
        assert "exit status -9" in told[0]
        with pytest.raises(IncompleteRunError, match="--resume"):
            pool.call(pool_work.facts)
    finally:
        pool.close()


def test_a_killed_parent_leaves_no_process_and_no_memory(tmp_path: Path) -> None:
    """Whose processes compute at that moment."""
    root = Path(__file__).parents[2]
    shared = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    command, environment = [sys.executable, "-c", ORPHANS], {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        if sys.platform == "linux":
            assert any("memfd:sbldm" in Path(f"/proc/{child.pid}/maps").read_text() for child in children)
        parent.kill()
        parent.wait()
        _, orphans = psutil.wait_procs(children, timeout=GONE_S)
        for orphan in orphans:
            orphan.kill()
        assert not orphans
    if Path("/dev/shm").is_dir():
        assert not [name for name in set(os.listdir("/dev/shm")) - shared if "sbldm" in name or "psm_" in name]


def test_a_system_without_nameless_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(portable.os, "memfd_create")
    with pytest.raises(OSError, match="without a name"):
        SharedBlocks(FIELDS, 1)


def test_descriptors_of_memory_are_closed_with_it() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        kept = SharedBlocks(FIELDS, 1).arrays(0)["second"]
    kept[:] = np.float32(3)  # the memory stays as long as an array of it
    assert kept.sum() == 12
    del kept
    assert len(os.listdir("/proc/self/fd")) == before
