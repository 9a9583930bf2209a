"""Services for tests: in this process, or as the real command on a port of its own."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sbldm.engine.service.service import Service
from sbldm.engine.service.settings import Settings
from sbldm.engine.telemetry import EventLog

ENDS = ("done", "incomplete", "failed", "cancelled")


def service_of(bundle: Path, jobs: Path, **settings: Any) -> tuple[Service, io.StringIO]:
    """A service whose jobs do not run until it is entered, and its log."""
    log = io.StringIO()
    return Service(Settings(jobs=jobs, bundles=(str(bundle),), threads=1, **settings), EventLog("json", log)), log


def bearer(jobs: Path) -> dict[str, str]:
    """Headers of the local client."""
    return {"Authorization": f"Bearer {(jobs / 'token').read_text().strip()}"}


def ended(client: Any, job_id: str, within_s: float = 120) -> dict[str, Any]:
    """A job's status once it has ended."""
    give_up = time.monotonic() + within_s
    while True:
        status = client.get(f"/v1/jobs/{job_id}").json()
        if status["state"] in ENDS:
            return status
        assert time.monotonic() < give_up, status
        time.sleep(0.05)


@dataclass
class Served:
    """The real command."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    jobs: Path

    @contextmanager
    def client(self) -> Iterator[httpx.Client]:
        base = f"http://127.0.0.1:{self.port}"
        with httpx.Client(base_url=base, headers=bearer(self.jobs), timeout=60, trust_env=False) as client:
            yield client


@contextmanager
def served(bundle: Path, jobs: Path, *options: object, prefix: tuple[str, ...] = ()) -> Iterator[Served]:
    """`sbldm-engine serve` in a process of its own; ended at the end unless it has ended."""
    log = jobs.with_name(f"{jobs.name}-{time.monotonic_ns()}.log")
    asked = ["serve", "--jobs", jobs, "--port", 0, "--bundle", bundle, "--threads", 1, *options]
    command = [*prefix, sys.executable, "-m", "sbldm.cli.main", *map(str, asked)]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream, stdout=subprocess.DEVNULL, cwd=jobs.parent)
    try:
        yield Served(process, _port(process, log), log, jobs)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                return json.loads(line)["port"]
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(log.read_text())
