"""Locks by `flock`, and by lock folders where the system or the file system has none."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine import locks, portable
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.locks import FileLock, LockHeldError, lock_file

HOLD = """
import os, sys, time
from pathlib import Path
from sbldm.engine import portable
from sbldm.engine.locks import lock_file
if sys.argv[2] == "folder":
    portable.fcntl = None
path = Path(sys.argv[1])
lock = lock_file(os.open(path, os.O_RDWR | os.O_CREAT), path)
print("held", flush=True)
time.sleep(60)
"""


class NoFlock:
    """`fcntl` on a file system that answers every lock with one error."""

    LOCK_SH, LOCK_EX, LOCK_NB = 1, 2, 4

    def __init__(self, number: int) -> None:
        self.number = number

    def flock(self, _descriptor: int, _operation: int) -> None:
        raise OSError(self.number, os.strerror(self.number))


@pytest.fixture(params=["flock", "folder"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        monkeypatch.setattr(portable, "fcntl", NoFlock(errno.ENOLCK))
    return request.param


def take(path: Path, shared: bool = False) -> FileLock:
    return lock_file(os.open(path, os.O_RDWR | os.O_CREAT), path, shared=shared)


@contextmanager
def held_by_another(path: Path, way: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path), way], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def pretend(path: Path, **changed: object) -> Path:
    """Change what the lock folder says of its holder."""
    holder = path.with_name(path.name + locks.LOCK_SUFFIX) / "holder"
    holder.write_text(json.dumps(json.loads(holder.read_text()) | changed))
    return holder


def test_one_holder_at_a_time_and_nothing_left(way: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    first = take(path)
    with pytest.raises(LockHeldError, match="ledger"):
        take(path)
    first.release()
    take(path).release()
    assert os.listdir(tmp_path) == ["ledger"]


def test_a_killed_holder_holds_nothing(way: str, tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with held_by_another(path, way) as process:
        with pytest.raises(LockHeldError):
            take(path)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        take(path).release()
    assert os.listdir(tmp_path) == ["ledger"]


def test_a_lock_folder_counts_where_flock_works_too(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with held_by_another(path, "folder"), pytest.raises(LockHeldError, match=r"process \d+ on "):
        take(path)


@pytest.mark.parametrize("first_way", ["flock", "folder"])
def test_a_holder_elsewhere_is_believed_for_a_minute(
    first_way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger"
    with monkeypatch.context() as patched:
        patched.setattr(portable, "fcntl", None)
        abandoned = take(path)
    if first_way == "folder":
        monkeypatch.setattr(portable, "fcntl", None)
    holder = pretend(path, machine="node7/boot/pid")
    with pytest.raises(LockHeldError, match=r"on node7 holds the lock, last sign of life \d s ago"):
        take(path)
    long_ago = time.time() - locks.SILENT_S - 1
    os.utime(holder, (long_ago, long_ago))
    mine = take(path)
    abandoned.release()  # it must not take the new holder's lock away
    if first_way == "folder":
        with pytest.raises(LockHeldError):
            take(path)
    mine.release()
    assert os.listdir(tmp_path) == ["ledger"]


def test_a_number_that_another_process_has_now_is_no_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "fcntl", None)
    path = tmp_path / "ledger"
    take(path)
    pretend(path, started=1.0)
    take(path).release()
    assert os.listdir(tmp_path) == ["ledger"]  # the lock of nobody was taken over, and given back


def test_the_holder_touches_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "fcntl", None)
    monkeypatch.setattr(locks, "BEAT_S", 0.05)
    path = tmp_path / "ledger"
    lock = take(path)
    holder = tmp_path / "ledger.lock" / "holder"
    os.utime(holder, (0, 0))
    end = time.monotonic() + 10
    while holder.stat().st_mtime == 0 and time.monotonic() < end:
        time.sleep(0.02)
    assert holder.stat().st_mtime > 0
    lock.release()


def test_what_a_dead_breaker_left_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "fcntl", None)
    monkeypatch.setattr(locks, "_BREAK_S", 0.0)
    path = tmp_path / "ledger"
    take(path)
    pretend(path, started=1.0)
    (tmp_path / "ledger.lock.break").mkdir()
    with pytest.raises(LockHeldError, match="try again"):
        take(path)
    take(path).release()


def test_names_are_resolved_beneath_an_open_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "fcntl", None)
    (tmp_path / "run").mkdir()
    folder = os.open(tmp_path / "run", os.O_RDONLY)
    descriptor = os.open("ledger", os.O_RDWR | os.O_CREAT, dir_fd=folder)
    lock = lock_file(descriptor, Path("/nowhere/ledger"), folder=folder)
    assert sorted(os.listdir(tmp_path / "run")) == ["ledger", "ledger.lock"]
    lock.release()
    assert os.listdir(tmp_path / "run") == ["ledger"]
    os.close(folder)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_generate_on_a_file_system_without_locks(
    tiny_bundle: Bundle, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(portable, "fcntl", NoFlock(number))
    locks._told_once.clear()
    asked = ["generate", "--bundle", str(tiny_bundle.path), "--steps", "1", "--quiet", "--out", str(tmp_path / "run")]
    assert main([*asked, "--count", "1"]) == 0
    assert main([*asked, "--count", "1", "--resume"]) == 0
    assert [r.message for r in caplog.records].count(caplog.records[0].message) == 1
    assert "no file locks" in caplog.records[0].message
    assert not list((tmp_path / "run").glob("*.lock*"))
