"""The command line in processes of its own that start fast, and the hashes of what it leaves."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from sbldm.engine.bundle.load import Bundle


def hashes(directory: Path) -> dict[str, str]:
    """Hex sha256 of every file below a directory, by name."""
    return {
        p.relative_to(directory).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in directory.rglob("*")
        if p.is_file() and p.name != "audit.jsonl"  # which has a clock in it
    }


def command(bundle: Bundle, out: Path, *arguments: object) -> list[str]:
    """Arguments of `generate` with one thread."""
    fixed = ["generate", "--bundle", str(bundle.path), "--threads", "1", "--quiet", "--out", str(out)]
    return [*fixed, *map(str, arguments)]


def in_group(arguments: list[str]) -> None:
    """Run the command line in a process group of its own, in a child of the fork server."""
    from sbldm.cli.main import run

    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children inherit it ignored
    sys.argv = ["sbldm-engine", *arguments]
    run()


@contextmanager
def child(arguments: list[str]) -> Iterator[multiprocessing.Process]:
    """The command line in a process that starts fast: what it imports is there already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sbldm.engine.run.job", "sbldm.cli._job", "sbldm.cli.generate", "onnxruntime"])
    process = context.Process(target=in_group, args=(arguments,))
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()


def worker_processes(pid: int | None) -> list[psutil.Process]:
    """The workers that a run has now."""
    found: list[psutil.Process] = []
    try:
        for process in psutil.Process(pid).children():
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    except psutil.Error:  # ended while we looked
        return []
    return found
