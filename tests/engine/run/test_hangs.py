"""Nothing hangs: models that never end, workers that are stopped, signals while either lasts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.run import time_limit, workers
from sbldm.engine.run.ledger import LedgerIndex
from sbldm.engine.run.time_limit import TimeLimit
from sbldm.engine.run.workers import Group, WorkerPool

from tests.support.endless import endless_bundle, slow_bundle

SLACK_S = 10.0  # of a loaded machine


@pytest.fixture
def endless(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return endless_bundle(tiny_bundle, tmp_path / "endless")


def command(bundle: Path, out: Path, *more: object, backend: str = "onnxruntime") -> list[str]:
    fixed = ["generate", "--bundle", str(bundle), "--steps", "1", "--threads", "1", "--quiet", "--out", str(out)]
    return [*fixed, "--backend", backend, *map(str, more)]


def test_a_model_that_never_ends_is_ended_and_its_sample_fails(endless: Path, tmp_path: Path, capsys) -> None:
    assert main(command(endless, tmp_path / "out", "--count", 1, "--sample-timeout", 0.3)) == 5
    (record,) = LedgerIndex.of(tmp_path / "out").records()
    assert record.fault == "took longer than --sample-timeout, twice"
    assert "1 sample failed" in capsys.readouterr().err


def test_a_slow_model_in_openvino_is_ended_between_its_nodes(tiny_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    slow = slow_bundle(tiny_bundle, tmp_path / "slow")
    asked = ("--count", 1, "--sample-timeout", 0.3)
    assert main(command(slow, tmp_path / "out", *asked, backend="openvino")) == 5
    (record,) = LedgerIndex.of(tmp_path / "out").records()
    assert record.fault == "took longer than --sample-timeout, twice"


IMPATIENT = """
from sbldm.cli.main import run
from sbldm.engine.run import time_limit
time_limit.GRACE_S = 0.3
run()
"""


def test_a_loop_that_openvino_cannot_end_ends_the_process_with_the_sample_failed(endless: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    arguments = command(endless, tmp_path / "out", "--count", 2, "--sample-timeout", 0.3, backend="openvino")
    found = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 5
    assert "--resume --workers 2" in found.stderr
    (record,) = LedgerIndex.of(tmp_path / "out").records()
    assert record.fault == "took longer than --sample-timeout and did not end"


@pytest.mark.slow
def test_a_worker_with_a_model_that_never_ends_is_ended_and_its_sample_fails(
    endless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sbldm.engine.run.job.WorkerPool", _OneWorker)
    assert main(command(endless, tmp_path / "out", "--count", 1, "--sample-timeout", 0.5, "--workers", 2)) == 5
    (record,) = LedgerIndex.of(tmp_path / "out").records()
    assert "--sample-timeout" in str(record.fault)


class _OneWorker(WorkerPool):
    """One process is enough to show it."""

    def __init__(self, setup, _count, record, telemetry) -> None:
        super().__init__(setup, 1, record, telemetry)


class _StopsItsFirstWorker(_OneWorker):
    stopped = 0

    def _hand_out(self, groups: Iterator[Group]) -> None:
        super()._hand_out(groups)
        if not self.stopped and self._workers[0].ready:
            os.kill(self._workers[0].process.pid, signal.SIGSTOP)
            type(self).stopped += 1


@pytest.mark.slow
def test_a_stopped_worker_is_replaced(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "SILENT_S", 6.0)
    monkeypatch.setattr("sbldm.engine.run.job.WorkerPool", _StopsItsFirstWorker)
    metrics = tmp_path / "m.prom"
    asked = ("--count", 4, "--workers", 2, "--metrics-file", metrics)
    assert main(command(tiny_bundle.path, tmp_path / "out", *asked)) == 0
    assert _StopsItsFirstWorker.stopped == 1
    assert "sbldm_workers_lost_total 1" in metrics.read_text()


def test_a_run_that_cannot_be_ended_is_given_to_who_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "GRACE_S", 0.05)
    given: list[list[int]] = []
    told = threading.Event()

    def stuck(samples: list[int]) -> None:
        given.append(samples)
        told.set()

    with TimeLimit(0.02, stuck).on([3, 4]) as expired:
        assert told.wait(SLACK_S)
    assert expired.is_set()
    assert given == [[3, 4]]
    with TimeLimit(SLACK_S, stuck).on([5]) as expired:
        pass
    assert not expired.is_set()


DEADLOCK = """
import ctypes, sys
from sbldm.engine.stopping import stopped_by_signals
mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
with stopped_by_signals():
    libc.pthread_mutex_lock(mutex)
    print("ready", flush=True)
    libc.pthread_mutex_lock(mutex)  # for ever, and no handler of a signal runs
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_stuck_in_foreign_code_ends_on_a_signal(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", DEADLOCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_listen
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.5)  # from the word to the lock that is never given
    began = time.monotonic()
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"--resume" in told
    assert time.monotonic() - began < 5 + SLACK_S


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "backend"),
    [(signal.SIGINT, "onnxruntime"), (signal.SIGHUP, "onnxruntime"), (signal.SIGTERM, "openvino")],
)
def test_a_signal_ends_a_model_that_never_ends(
    endless: Path, tmp_path: Path, number: signal.Signals, backend: str
) -> None:
    pytest.importorskip(backend)
    out = tmp_path / "out"
    arguments = [sys.executable, "-m", "sbldm.cli.main", *command(endless, out, "--count", 1, backend=backend)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, preexec_fn=_listen)
    while not (out / "ledger.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    began = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode == 130
    assert time.monotonic() - began < 5 + SLACK_S


def _listen() -> None:
    """A background job's children inherit some signals ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
