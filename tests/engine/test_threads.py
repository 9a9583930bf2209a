"""Threads of networks: shared out, and only as many as can be started."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine import threads
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import BackendUnavailableError
from sbldm.engine.processor import SLURM_CPUS
from sbldm.engine.threads import SHARD_THREADS, default_threads, require_threads, startable_threads


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_threads", lambda: 8)
    monkeypatch.delenv(SLURM_CPUS, raising=False)


@pytest.fixture
def six_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that lets six threads of ours live at once."""
    start, join, alive = threading.Thread.start, threading.Thread.join, set[threading.Thread]()

    def limited(thread: threading.Thread) -> None:
        if len(alive) == 6:
            raise RuntimeError("can't start new thread")
        alive.add(thread)
        start(thread)

    def joined(thread: threading.Thread, timeout: float | None = None) -> None:
        join(thread, timeout)
        alive.discard(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    monkeypatch.setattr(threading.Thread, "join", joined)


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(("workers", "expected"), [(1, 8), (2, 4), (3, 2), (8, 1), (20, 1)])
def test_workers_share_the_processors(workers: int, expected: int) -> None:
    assert default_threads(1, workers) == expected


@pytest.mark.usefixtures("eight")
def test_a_shard_does_not_look_at_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_threads(4, shards=2) == SHARD_THREADS
    monkeypatch.setenv(SLURM_CPUS, "6")
    assert default_threads(4, shards=2) == 6


@pytest.mark.usefixtures("eight", "six_more")
def test_fewer_threads_where_no_more_can_be_started(caplog: pytest.LogCaptureFixture) -> None:
    assert startable_threads(64) == 6
    assert startable_threads(3) == 3
    assert (
        default_threads(networks=2) == 3
    )  # two networks start two threads each, two are left for a writer and a watch
    assert "networks run on 3 threads, not on 8" in caplog.text


@pytest.mark.usefixtures("six_more")
def test_threads_that_were_asked_for_and_cannot_be_started() -> None:
    require_threads(3, networks=2)
    require_threads(1, networks=9)
    with pytest.raises(BackendUnavailableError, match="only 6 can be started"):
        require_threads(4, networks=2)


@pytest.mark.parametrize("options", [[], ["--threads", "1"], ["--workers", "2"]])
def test_no_thread_at_all_is_told_before_anything_is_written(
    options: list[str], tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(threads, "startable_threads", lambda _: 1)
    command = ["generate", "--bundle", str(tiny_bundle.path), "--count", "1", *options]
    assert main([*command, "--out", str(tmp_path / "run")]) == 4
    assert "only 1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_nothing_is_written_before_the_threads_are_known(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threads, "startable_threads", lambda _: 3)
    command = ["generate", "--bundle", str(tiny_bundle.path), "--count", "1", "--threads", "4"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 4
    assert "give fewer --threads" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
