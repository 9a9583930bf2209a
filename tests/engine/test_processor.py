"""How many processors are ours: affinity, cgroups of both versions, Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sbldm.engine import portable, processor
from sbldm.engine.processor import SLURM_CPUS, available_threads, cpu_limits


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight processors without a quota; its folder holds the cgroups."""
    monkeypatch.setattr(processor, "allowed_cpus", lambda: 8)
    monkeypatch.setattr(processor, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processor, "_OWN_CGROUPS", tmp_path / "own")
    monkeypatch.delenv(SLURM_CPUS, raising=False)
    (tmp_path / "own").write_text("0::/slice/pod\n3:cpuset:/x\n2:cpu,cpuacct:/docker/abc\n")
    return tmp_path / "cgroup"


def quota(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_without_a_quota_the_scheduler_decides(machine: Path) -> None:
    quota(machine / "slice" / "pod", cpu__max="max 100000")
    quota(machine / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert [limit.threads for limit in cpu_limits()] == [8]


@pytest.mark.parametrize(
    ("told", "threads"), [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("900000 100000", 8)]
)
def test_a_quota_of_version_2_rounded_down(machine: Path, told: str, threads: int) -> None:
    quota(machine / "slice" / "pod", cpu__max=told)
    assert available_threads() == threads
    assert ("v2" in cpu_limits()[0].rule) == (threads < 8)


def test_the_quota_of_a_folder_above_ours_holds_too(machine: Path) -> None:
    quota(machine / "slice" / "pod", cpu__max="600000 100000")
    quota(machine / "slice", cpu__max="300000 100000")
    assert available_threads() == 3


def test_a_quota_of_version_1(machine: Path) -> None:
    quota(machine / "cpu" / "docker" / "abc", cpu__cfs_quota_us="400000", cpu__cfs_period_us="200000")
    assert cpu_limits()[0].threads == 2
    assert "v1" in cpu_limits()[0].rule


def test_a_container_that_sees_only_its_mount(machine: Path) -> None:
    quota(machine / "cpu", cpu__cfs_quota_us="150000", cpu__cfs_period_us="50000")
    assert available_threads() == 3


@pytest.mark.parametrize("told", ["", "many", "200000 0", "200000"])
def test_a_quota_that_says_nothing_is_none(machine: Path, told: str) -> None:
    quota(machine / "slice" / "pod", cpu__max=told)
    assert available_threads() == 8


@pytest.mark.parametrize(("told", "threads"), [("3", 3), ("16", 8), ("0", 8), ("two", 8), ("", 8)])
def test_slurm(machine: Path, told: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SLURM_CPUS, told)
    assert available_threads() == threads


def test_affinity_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 4}, raising=False)
    assert portable.allowed_cpus() == 3


def test_memory_of_the_cgroup(machine: Path) -> None:
    assert processor.cgroup_memory() is None
    quota(machine / "slice" / "pod", memory__max="max")
    assert processor.cgroup_memory() is None
    quota(machine / "slice", memory__max="3000000")
    assert processor.cgroup_memory() == 3_000_000
    (machine.parent / "own").write_text("5:memory:/docker/abc\n")
    quota(machine / "memory" / "docker" / "abc", memory__limit_in_bytes="2000000")
    quota(machine / "memory", memory__limit_in_bytes="9223372036854771712")
    assert processor.cgroup_memory() == 2_000_000


def test_a_real_quota_decides_and_is_told_without_its_folder() -> None:
    parent = Path("/sys/fs/cgroup/cpu")
    group = parent / f"patient-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text("150000")
    except OSError:
        pytest.skip("no cgroup (v1) can be made here")
    program = "from sbldm.engine.processor import cpu_limits; print(*cpu_limits(), sep='\\n')"
    try:
        shell = f'echo $$ > {group}/cgroup.procs && exec {sys.executable} -c "{program}"'
        told = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=120, check=True).stdout
    finally:
        group.rmdir()
    first = told.splitlines()[0]
    assert first == "CpuLimit(threads=1, rule='quota of the cgroup (v1, cpu.cfs_quota_us)')"
    assert "patient" not in told
