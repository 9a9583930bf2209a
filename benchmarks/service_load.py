"""How a service answers while it generates: status times of many clients, and of a list of many jobs.

    python -m sbldm.benchmarks.service_load --out /tmp/load --clients 200 --seconds 20

Starts `sbldm-engine serve` on a free port of this machine, gives it jobs of the shipped model, and asks for status and
list by so many clients, each at its own times, some of which send slowly or break off. Times are those that a client
sees, its connection made anew each time. The last line is one JSON object: 50th and 99th percentile and the worst in
milliseconds, and the processor time that the service takes for a request, which other programs do not change much;
seconds from the start of the program to its first answer, with the jobs that it then reads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from ..engine.service.store import Reserved, Store

Times = dict[str, list[float]]  # milliseconds by request
_BREAKS_OFF = 0.05  # share of clients that send half a request and leave
_START_S = 300.0


async def answered(port: int, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that has sent a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    await writer.drain()
    return reader, writer


async def ask(port: int, requests: dict[str, bytes], until: float, pause_s: float, seen: Times) -> None:
    """One client: requests in turn, each on a connection of its own, with pauses; times go to `seen`."""
    luck = random.Random()
    await asyncio.sleep(luck.uniform(0, 2 * pause_s))
    while time.monotonic() < until:
        name = luck.choice(list(requests))
        began = time.perf_counter()
        reader, writer = await answered(port, requests[name])
        data = await reader.read()
        seen[name if data.startswith(b"HTTP/1.1 200") else "refused"].append(1e3 * (time.perf_counter() - began))
        writer.close()
        await asyncio.sleep(luck.uniform(0, 2 * pause_s))


async def break_off(port: int, until: float, pause_s: float) -> None:
    """A client that sends half a request, waits, and leaves, again and again."""
    while time.monotonic() < until:
        _, writer = await answered(port, b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        await asyncio.sleep(random.uniform(0, pause_s))
        writer.close()


async def load(port: int, requests: dict[str, bytes], clients: int, seconds: float, rate: float) -> Times:
    """Milliseconds by request of so many clients, which ask `rate` times a second together."""
    seen: Times = {name: [] for name in (*requests, "refused")}
    until, pause_s = time.monotonic() + seconds, clients / rate
    broken = int(clients * _BREAKS_OFF)
    await asyncio.gather(
        *(ask(port, requests, until, pause_s, seen) for _ in range(clients - broken)),
        *(break_off(port, until, pause_s) for _ in range(broken)),
    )
    return seen


def many_jobs(directory: Path, count: int) -> None:
    """A service's directory with so many jobs that have ended."""
    store = Store(directory)
    options = {"count": 1}
    fields = {"client": "local", "kind": "generate", "model": "none", "options": options, "reading": {},
              "strength": None, "state": "done"}  # fmt: skip
    for _ in range(count):
        store.create(fields, None, lambda _: Reserved(1, 0))
    store.close()


def request(method: str, path: str, token: str, body: bytes = b"") -> bytes:
    """The bytes of a request."""
    head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", f"Authorization: Bearer {token}",
            "Content-Type: application/json", f"Content-Length: {len(body)}"]  # fmt: skip
    return "\r\n".join([*head, "", ""]).encode() + body


async def _json(port: int, sent: bytes) -> dict[str, object]:
    reader, writer = await answered(port, sent)
    data = await reader.read()
    writer.close()
    return json.loads(data.partition(b"\r\n\r\n")[2])


def measure(
    out: Path, clients: int, seconds: float, rate: float, kept: int, bundle: str, samples: int
) -> dict[str, float]:
    """All figures by name; `out` is a new directory."""
    jobs, log = out / "jobs", out / "log"
    out.mkdir(parents=True)
    many_jobs(jobs, kept)
    began = time.perf_counter()
    command = [sys.executable, "-m", "sbldm.cli.main", "serve", "--jobs", str(jobs), "--port", "0", "--bundle", bundle]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream)
    try:
        port = _port(process, log)
        token = (jobs / "token").read_text().strip()
        asyncio.run(_json(port, request("GET", "/v1/health", token)))
        start_s = time.perf_counter() - began
        body = json.dumps({"count": samples}).encode()
        job = asyncio.run(_json(port, request("POST", "/v1/jobs", token, body)))["id"]
        while asyncio.run(_json(port, request("GET", f"/v1/jobs/{job}", token)))["state"] != "running":
            time.sleep(0.2)
        paths = {"status": f"/v1/jobs/{job}", "list": "/v1/jobs", "last_page": "/v1/jobs?before=51",
                 "failed": "/v1/jobs?state=failed"}  # fmt: skip
        asked = {name: request("GET", path, token) for name, path in paths.items()}
        watched = psutil.Process(process.pid)
        before = watched.cpu_times()
        seen = asyncio.run(load(port, asked, clients, seconds, rate))
        after = watched.cpu_times()
        used = after.user + after.system - before.user - before.system
        state = asyncio.run(_json(port, request("GET", f"/v1/jobs/{job}", token)))
        if state["state"] != "running":
            raise SystemExit(f"the job ended before the load did ({state['state']}); give more --samples")
    finally:
        process.terminate()
        process.wait(30)
    answers = sum(map(len, seen.values()))
    figures: dict[str, float] = {"clients": clients, "kept_jobs": kept, "refused": len(seen.pop("refused"))}
    figures["start_s"] = start_s
    figures["service_cpu_ms_a_request"] = 1e3 * used / answers
    for name, times in seen.items():
        p50, p99 = np.percentile(times, [50, 99])
        figures |= {f"{name}_requests": len(times), f"{name}_p50_ms": p50, f"{name}_p99_ms": p99}
        figures[f"{name}_worst_ms"] = max(times)
    return figures


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    give_up = time.monotonic() + _START_S
    while time.monotonic() < give_up and process.poll() is None:
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                return json.loads(line)["port"]
        time.sleep(0.1)
    raise SystemExit(log.read_text())


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="new directory")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=float, default=40, help="requests a second, of all clients together")
    parser.add_argument("--kept", type=int, default=1000, help="jobs in the list")
    parser.add_argument("--bundle", default="phantom")
    parser.add_argument("--samples", type=int, default=1000, help="of the job that runs meanwhile")
    given = vars(parser.parse_args(arguments))
    print(json.dumps({name: round(value, 2) for name, value in measure(**given).items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
