"""What a night in a hospital does to a run: kills, signals, full disks, lost workers, no network, each for real."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.folder import Folder
from sbldm.engine.run.ledger import LedgerIndex, lock_ledger

from tests.support.commands import child, command, hashes, worker_processes

KILLS = {1: 8, 2: 4}  # by workers
ROOT = os.geteuid() == 0


def wait_for_samples(out: Path, number: int, process: multiprocessing.Process) -> None:
    while process.is_alive():
        if out.is_dir() and len(LedgerIndex.of(out).places) >= number:
            return
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_kills_end_in_identical_hashes(tiny_bundle: Bundle, tmp_path: Path, workers: int) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    asked = ("--count", 60, "--steps", 2, "--seed", 11)
    assert main(command(tiny_bundle, whole, *asked)) == 0
    luck = random.Random(5 + workers)
    interrupted = 0
    for kill in range(4 * KILLS[workers]):
        if kill >= KILLS[workers] and interrupted >= 4:
            break
        with child(command(tiny_bundle, out, *asked, "--resume", "--workers", workers)) as process:
            process.join(luck.uniform(0.05, 0.8 * workers))
            interrupted += process.is_alive()
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
            process.join()
        if luck.random() < 0.5 and (out / "ledger.jsonl").exists():  # power loss tears the last line
            with (out / "ledger.jsonl").open("r+b") as ledger:
                ledger.truncate(max(0, ledger.seek(0, os.SEEK_END) - luck.randrange(200)))
    assert interrupted >= 4
    assert main(command(tiny_bundle, out, *asked, "--resume", "--workers", workers)) == 0
    assert hashes(out) == hashes(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [1, 2])
def test_signals_end_with_130_and_can_be_resumed(
    tiny_bundle: Bundle, tmp_path: Path, number: int, workers: int
) -> None:
    out, asked = tmp_path / "out", ("--count", 300, "--steps", 2, "--workers", workers)
    with child(command(tiny_bundle, out, *asked)) as process:
        wait_for_samples(out, 3, process)
        os.kill(process.pid, number)
        process.join()
        assert process.exitcode == 130
    assert not list(out.rglob("*.tmp"))
    assert not (out / "manifest.csv").exists()
    recorded = {entry.path for record in LedgerIndex.of(out).records() for entry in record.files}
    assert len(recorded) >= 15
    assert all((out / path).is_file() for path in recorded)
    assert main(command(tiny_bundle, out, *asked, "--resume", "--samples", "0-4")) == 0


def test_workers_end_with_their_parent_and_hold_no_lock(tiny_bundle: Bundle, tmp_path: Path) -> None:
    out, asked = tmp_path / "out", ("--count", 300, "--steps", 2, "--workers", 2)
    with child(command(tiny_bundle, out, *asked)) as process:
        wait_for_samples(out, 1, process)
        workers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert len(workers) >= 2
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    with Folder(out) as folder:
        lock_ledger(folder, "ledger.jsonl").close()


def test_a_worker_that_is_killed_is_replaced(tiny_bundle: Bundle, tmp_path: Path) -> None:
    out, whole, asked = tmp_path / "out", tmp_path / "whole", ("--count", 40, "--steps", 2)
    metrics = tmp_path / "m.prom"
    with child(command(tiny_bundle, out, *asked, "--workers", 2, "--metrics-file", metrics)) as process:
        wait_for_samples(out, 1, process)
        worker_processes(process.pid)[0].kill()
        process.join()
        assert process.exitcode == 0
    assert "sbldm_workers_lost_total 1" in metrics.read_text()
    assert main(command(tiny_bundle, whole, *asked)) == 0
    assert hashes(out) == hashes(whole)


def test_two_processes_on_one_shard(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    out, asked = tmp_path / "out", ("--count", 300, "--steps", 2)
    with child(command(tiny_bundle, out, *asked)) as process:
        wait_for_samples(out, 1, process)
        assert main(command(tiny_bundle, out, *asked, "--resume")) == 2
        assert "another process" in capsys.readouterr().err
        assert process.is_alive()


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[Path]:
    """A small file system in memory."""
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.skipif(not ROOT, reason="mounting needs root")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_exits_5_with_nothing_half_written(
    tiny_bundle: Bundle, tmp_path: Path, capsys, workers: int
) -> None:
    asked = ("--count", 20, "--steps", 2, "--workers", workers)
    assert main(command(tiny_bundle, tmp_path / "whole", *asked)) == 0
    with mounted(tmp_path / "small", "size=160k") as small:
        out = small / "out"
        assert main(command(tiny_bundle, out, *asked)) == 5
        assert "--resume" in capsys.readouterr().err
        assert not list(out.rglob("*.tmp"))
        expected = hashes(tmp_path / "whole")
        made = {name: digest for name, digest in hashes(out).items() if name.endswith(".gz")}
        assert made
        assert made.items() <= expected.items()
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        assert main(command(tiny_bundle, out, *asked, "--resume")) == 0
        assert hashes(out) == expected
    with mounted(tmp_path / "tiny", "size=4k", "nr_inodes=2") as tiny:
        assert main(command(tiny_bundle, tiny / "out", *asked)) == 5


@pytest.mark.skipif(not ROOT, reason="mounting needs root")
def test_a_read_only_mount_is_refused(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    with mounted(tmp_path / "readonly", "size=1m", "ro") as readonly:
        for out in (readonly, readonly / "out", readonly / "a" / "b"):
            assert main(command(tiny_bundle, out, "--count", 1)) == 2
            assert "cannot be written" in capsys.readouterr().err


def test_nothing_opens_a_socket(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """In a process where making any socket but a local one ends it, a whole run passes."""
    script = (
        "import sys\n"
        "def forbid(event, arguments):\n"
        "    local = event == 'socket.bind' and arguments[1][0] == '::1'  # urllib3 asks for IPv6 when imported\n"
        "    used = event in ('socket.connect', 'socket.bind', 'socket.getaddrinfo', 'socket.gethostbyname')\n"
        "    if used and not local:\n"
        "        raise SystemExit(f'network: {event} {arguments}')\n"
        "sys.addaudithook(forbid)\n"
        "from sbldm.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = command(tiny_bundle, tmp_path / "out", "--count", 2, "--steps", 2, "--preview")
    found = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.skipif(not ROOT, reason="a network namespace needs root")
def test_a_namespace_without_interfaces(tiny_bundle: Bundle, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces cannot be made here")
    arguments = command(tiny_bundle, tmp_path / "out", "--count", 2, "--steps", 2, "--json")
    found = subprocess.run(
        ["unshare", "-n", sys.executable, "-m", "sbldm.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["made"] == 2


def test_a_clock_that_jumps_changes_nothing(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--count", 3, "--steps", 2)
    assert main(command(tiny_bundle, tmp_path / "plain", *asked)) == 0
    jumps = iter([4e9, 0.0] * 10**6)
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    assert main(command(tiny_bundle, tmp_path / "jumps", *asked)) == 0
    assert hashes(tmp_path / "jumps") == hashes(tmp_path / "plain")


def test_a_hundred_thousand_rows(tiny_bundle: Bundle, tmp_path: Path) -> None:
    table = tmp_path / "cond.csv"
    table.write_text("volume_ml\n" + "".join(f"{5 + k % 40}\n" for k in range(100_000)))
    arguments = ("--conditions", table, "--steps", 1, "--samples", "0,99999")
    assert main(command(tiny_bundle, tmp_path / "out", *arguments)) == 0
    assert sorted(LedgerIndex.of(tmp_path / "out").places) == [0, 99999]
    assert main(command(tiny_bundle, tmp_path / "out", *arguments, "--resume")) == 0
