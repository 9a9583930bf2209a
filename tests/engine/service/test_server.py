"""The real command on a port: kill -9 and signals, many slow and broken clients, nothing asked of the outside."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle

from tests.support.commands import hashes
from tests.support.keys import write_pair
from tests.support.service import ended, served

SAMPLES = 16
ASKED = {"count": SAMPLES, "steps": 2, "seed": 5}


@pytest.mark.slow
def test_a_job_survives_kill_9_of_the_service(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Killed in the middle of a job, with its process; started again, it makes what is left: the same bytes."""
    jobs, bundle = tmp_path / "jobs", tiny_bundle.path
    with served(bundle, jobs) as service, service.client() as client:
        job = client.post("/v1/jobs", json=ASKED).json()["id"]
        second = client.post("/v1/jobs", json={"count": 1, "steps": 1}).json()["id"]
        give_up = time.monotonic() + 120
        while (status := client.get(f"/v1/jobs/{job}").json())["done"] < 3:
            assert status["state"] in ("queued", "running")
            assert time.monotonic() < give_up
            time.sleep(0.02)
        service.process.kill()
        service.process.wait()
    left = len((jobs / f"jobs/local/{job}/run/ledger.jsonl").read_text().splitlines())
    assert 3 <= left < SAMPLES
    with served(bundle, jobs) as service, service.client() as client:
        status = ended(client, job)
        assert (status["state"], status["done"]) == ("done", SAMPLES)
        assert ended(client, second)["state"] == "done"
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0
    run = jobs / f"jobs/local/{job}/run"
    events = [json.loads(line)["event"] for line in (run / "audit.jsonl").read_text().splitlines()]
    assert events == ["generate started", "generate started", "generate ended"]
    assert main(["verify", str(run)]) == 0
    whole = ["--count", str(SAMPLES), "--steps", "2", "--seed", "5", "--threads", "1", "--quiet"]
    assert main(["generate", "--bundle", str(bundle), *whole, "--out", str(tmp_path / "whole")]) == 0
    assert hashes(run) == hashes(tmp_path / "whole")


def raw(port: int, sent: bytes, *, then_s: float = 0.0, read: bool = True) -> bytes:
    """What comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(sent)
        time.sleep(then_s)
        got = b""
        while read and (part := connection.recv(65536)):
            got += part
    return got


@pytest.mark.slow
def test_slow_and_broken_clients_hold_nobody_up(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """200 of them: silent, half a request, half an upload, gone in the middle, no HTTP; others are answered."""
    jobs = tmp_path / "jobs"
    with served(tiny_bundle.path, jobs) as service, service.client() as client:
        token = client.headers["Authorization"].encode()
        job = client.post("/v1/jobs", json={"kind": "augment", "count": 1}).json()["id"].encode()
        head = b"Host: x\r\nAuthorization: " + token + b"\r\n"
        uploads = [
            b"PUT /v1/jobs/" + job + b"/inputs/" + name + b" HTTP/1.1\r\n" + head
            for name in (b"t1", b"t1ce", b"t2", b"flair", b"seg")
        ]
        broken = [
            b"",
            b"GET /v1/health HTTP/1.1\r\nHost: x\r\nX: ",
            *(upload + b"Content-Length: 90000\r\n\r\n\x1f\x8b" for upload in uploads),
            *(upload + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab" for upload in uploads),
        ]
        held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(160)]
        for number, connection in enumerate(held):
            connection.sendall(broken[number % len(broken)])
        for garbage in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET /\r\n\r\n", b"A" * 100_000):
            assert raw(service.port, garbage).startswith(b"HTTP/1.1 400")
        assert raw(service.port, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 401")
        for smuggled in (
            b"POST /v1/jobs HTTP/1.1\r\n" + head + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
            b"POST /v1/jobs HTTP/1.1\r\n" + head + b"Content-Length: -1\r\n\r\n",
        ):
            assert raw(service.port, smuggled)[:12] == b"HTTP/1.1 400"
        answered: list[int] = []

        def ask() -> None:
            with service.client() as other:
                for _ in range(3):
                    answered.append(other.get("/v1/jobs").status_code)
                    time.sleep(1)  # forty a second are within a client's rate

        threads = [threading.Thread(target=ask) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answered.count(200) == len(answered) == 120
        for connection in held[::3]:
            connection.close()
        assert client.get(f"/v1/jobs/{job.decode()}").json()["uploads"] == {}
        for connection in held:
            connection.close()
        assert client.get("/v1/health").status_code == 200
        give_up = time.monotonic() + 30
        while list((jobs / "jobs").rglob("*.tmp")):
            assert time.monotonic() < give_up
            time.sleep(0.05)
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(20) == 0


def test_connections_without_a_request_are_closed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    import uvicorn
    from sbldm.engine.service.app import create_app
    from sbldm.engine.service.server import _connections

    from tests.support.service import bearer, service_of

    service, _ = service_of(tiny_bundle.path, tmp_path / "jobs", chunk_s=0.3)
    config = uvicorn.Config(create_app(service), port=0, http=_connections(0.2), lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    token = bearer(tmp_path / "jobs")["Authorization"]
    for half in (b"", b"GET /v1/health HTTP/1.1\r\nX"):
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(half)
            with suppress(ConnectionResetError):
                assert connection.recv(100) == b""
        assert time.monotonic() - began < 10
    headers = f"Host: x\r\nAuthorization: {token}\r\nContent-Type: application/json\r\n"
    slow = f"POST /v1/jobs HTTP/1.1\r\n{headers}Content-Length: 500\r\n\r\n{{".encode()
    assert raw(port, slow).startswith(b"HTTP/1.1 408")
    server.should_exit = True
    thread.join(10)
    service.__exit__()


def test_it_listens_where_it_is_told_and_nowhere_without_tokens(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    asked = ["serve", "--jobs", str(tmp_path / "jobs"), "--bundle", str(tiny_bundle.path)]
    assert main([*asked, "--host", "0.0.0.0"]) == 2
    assert "--host 0.0.0.0: listens beyond this machine; give --tokens" in capsys.readouterr().err
    assert main([*asked, "--host", "localhost.example"]) == 2
    assert "names are not looked up" in capsys.readouterr().err
    tokens = tmp_path / "tokens"
    for content, named in [
        ("", "holds no client"),
        ("anna secret\n", "tokens:1: must be"),
        ("Anna/.. " + "0" * 64, "tokens:1: must be"),
        (f"a {'0' * 64}\nb {'0' * 64}\n", "tokens:2: client or token is there twice"),
    ]:
        tokens.write_text(content)
        tokens.chmod(0o600)
        assert main([*asked, "--tokens", str(tokens)]) == 3
        assert named in capsys.readouterr().err
    tokens.chmod(0o622)
    assert main([*asked, "--tokens", str(tokens)]) == 3
    assert "others may write it" in capsys.readouterr().err
    assert main([*asked, "--at-once", "0"]) == 2
    assert main([*asked, "--require-signature", str(tmp_path / "no.pem")]) == 2
    write_pair(tmp_path, "mine")
    assert main([*asked, "--require-signature", str(tmp_path / "mine.pub")]) == 3
    assert "sign" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main([*asked, "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be listened at" in capsys.readouterr().err


@pytest.mark.slow
def test_a_service_asks_nothing_of_the_outside_and_writes_in_its_directory_alone(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No host is looked up, no connection made; a job of an uploaded case leaves nothing in temporary folders."""
    from tests.engine.test_no_telemetry import LOCAL, WRITING, clean_environment, outside_of, written_path
    from tests.support.scans import arrays

    from .test_app import nifti

    strace = shutil.which("strace")
    if strace is None or subprocess.run([strace, "-f", "true"], capture_output=True).returncode:
        pytest.skip("strace is not installed, or may not trace here")
    home, temporary, trace, jobs = (tmp_path / name for name in ("home", "tmp", "trace", "jobs"))
    home.mkdir()
    temporary.mkdir()
    for name, value in (clean_environment(home) | {"TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}).items():
        monkeypatch.setenv(name, value)
    calls = f"trace=connect,sendto,sendmsg,sendmmsg,{WRITING}"
    prefix = (strace, "-f", "-y", "--seccomp-bpf", "-s", "400", "-e", calls, "-o", str(trace))
    with served(tiny_bundle.path, jobs, prefix=prefix) as service, service.client() as client:
        job = client.post("/v1/jobs", json={"kind": "augment", "count": 1, "steps": 2}).json()["id"]
        for name, array in arrays().items():
            assert client.put(f"/v1/jobs/{job}/inputs/{name}", content=nifti(array)).status_code == 200
        client.post(f"/v1/jobs/{job}/start")
        assert ended(client, job)["state"] == "done"
        assert client.get("/docs").status_code == 200
        assert client.delete(f"/v1/jobs/{job}").status_code == 204
    lines = [line for line in trace.read_text().splitlines() if " = -1 " not in line or "AF_INET" in line]
    assert [line for line in lines if re.search(r"AF_INET|sendmmsg", line) and not re.search(LOCAL, line)] == []
    assert [line for line in lines if "connect(" in line and "AF_INET" in line] == []
    written = {path for line in lines if (path := written_path(line, tmp_path)) is not None}
    assert outside_of(written, jobs) == []
    assert list(home.iterdir()) == list(temporary.iterdir()) == []
