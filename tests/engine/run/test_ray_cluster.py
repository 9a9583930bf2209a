"""A run on a real local Ray cluster of two workers, one of them killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import BackendUnavailableError
from sbldm.engine.run import ray_cluster
from sbldm.engine.run.ledger import LedgerIndex
from sbldm.engine.run.ray_cluster import connected

from tests.support.commands import hashes


@pytest.fixture(scope="module")
def cluster() -> Iterator[ModuleType]:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def actors() -> list[psutil.Process]:
    """The processes of the actors, by the title that Ray gives them."""
    return [p for p in psutil.Process().children(recursive=True) if "_Maker" in " ".join(p.cmdline())]


@pytest.mark.slow
def test_a_cluster_makes_the_bytes_of_a_local_run_though_a_worker_is_killed(
    cluster: ModuleType, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    asked = [
        "generate",
        "--bundle",
        str(tiny_bundle.path),
        "--threads",
        "1",
        "--count",
        "40",
        "--steps",
        "2",
        "--quiet",
    ]
    metrics = tmp_path / "m.prom"
    codes: list[int] = []
    arguments = [*asked, "--out", str(tmp_path / "ray"), "--ray", "--metrics-file", str(metrics)]
    driver = threading.Thread(target=lambda: codes.append(main(arguments)))
    driver.start()
    killed = False
    while driver.is_alive() and not killed:
        time.sleep(0.01)
        ledger = tmp_path / "ray" / "ledger.jsonl"
        if ledger.exists() and ledger.stat().st_size > 0 and (found := actors()):
            found[0].kill()
            killed = True
    driver.join()
    assert codes == [0]
    assert killed
    assert "sbldm_workers_lost_total 1" in metrics.read_text()
    assert main([*asked, "--out", str(tmp_path / "local")]) == 0
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "local")


@pytest.mark.slow
def test_faults_of_a_worker_reach_the_driver(cluster: ModuleType, tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    """The run directory turns unwritable for the actors: they say so, the driver ends as it does without Ray."""
    asked = ["generate", "--bundle", str(tiny_bundle.path), "--threads", "1", "--count", "4", "--steps", "2", "--quiet"]
    assert main([*asked, "--out", str(tmp_path / "out"), "--samples", "0"]) == 0
    (tmp_path / "out" / "sbldm-000001").write_text("in the way")
    assert main([*asked, "--out", str(tmp_path / "out"), "--ray", "--resume"]) == 5
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sample_that_kills_its_actors_is_given_up_alone(
    cluster: ModuleType, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fatal(ray_cluster._Maker):
        def make(self, work: ray_cluster.Range) -> Any:
            if any(task.sample == 2 for group in work for task in group):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().make(work)

    monkeypatch.setattr(ray_cluster, "_Maker", Fatal)
    asked = ["generate", "--bundle", str(tiny_bundle.path), "--threads", "1", "--count", "4", "--steps", "1", "--quiet"]
    out = tmp_path / "out"
    assert main([*asked, "--batch-size", "2", "--out", str(out), "--ray"]) == 5
    faults = {record.sample: record.fault for record in LedgerIndex.of(out).records(range(4))}
    assert {sample for sample, fault in faults.items() if fault} == {2}


@pytest.mark.slow
def test_local_is_a_cluster_of_its_own_and_leaves_no_token(tiny_bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "-m", "sbldm", "generate", "--bundle", str(tiny_bundle.path), "--count", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    run = subprocess.run(
        [*command, "--steps", "1", "--quiet", "--ray", "local", "--out", str(tmp_path / "run")],
        env={**environment, "RAY_ADDRESS": "127.0.0.1:1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert not (tmp_path / ".ray").exists()


def test_a_stopped_actor_is_replaced(
    cluster: ModuleType, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "SILENT_S", 5.0)
    metrics, out, codes = tmp_path / "m.prom", tmp_path / "out", list[int]()
    asked = [
        "generate",
        "--bundle",
        str(tiny_bundle.path),
        "--threads",
        "1",
        "--count",
        "12",
        "--steps",
        "2",
        "--quiet",
    ]
    arguments = [*asked, "--out", str(out), "--ray", "--metrics-file", str(metrics)]
    driver = threading.Thread(target=lambda: codes.append(main(arguments)))
    driver.start()
    stopped = False
    while driver.is_alive() and not stopped:
        time.sleep(0.01)
        ledger = out / "ledger.jsonl"
        if ledger.exists() and ledger.stat().st_size > 0 and (found := actors()):
            found[0].send_signal(signal.SIGSTOP)
            stopped = True
    driver.join()
    assert (codes, stopped) == ([0], True)
    assert "sbldm_workers_lost_total" in metrics.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("frees", [False, True])
def test_a_full_cluster_is_told_and_given_up(
    frees: bool, cluster: ModuleType, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert (ray_cluster._TELL_S, ray_cluster.ROOM_S) == (30, 600)
    monkeypatch.setattr(ray_cluster, "_TELL_S", 0.5)
    monkeypatch.setattr(ray_cluster, "ROOM_S", 120.0 if frees else 2.0)

    class Other:
        def ready(self) -> bool:
            return True

    other = cluster.remote(Other).options(num_cpus=2).remote()
    assert cluster.get(other.ready.remote(), timeout=120)
    out = tmp_path / "out"
    asked = ["generate", "--bundle", str(tiny_bundle.path), "--threads", "1", "--count", "1", "--steps", "1"]
    if frees:
        threading.Timer(2.0, cluster.kill, [other]).start()
    code = main([*asked, "--out", str(out), "--ray"])
    told = capsys.readouterr().err
    assert "the cluster is full; waiting up to" in told
    if frees:
        assert code == 0, told
    else:
        cluster.kill(other)
        assert code == 4
        assert "had no room for an actor in 2 s" in told
        assert (out / "ledger.jsonl").read_bytes() == b""


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendUnavailableError, match=r"sbldm-engine\[ray\]"), connected("auto"):
        pass
