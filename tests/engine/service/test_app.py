"""What clients get, and what they do not get, over HTTP in this process; jobs that run here are real ones."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.service.app import create_app
from sbldm.engine.service.service import Service
from starlette.testclient import TestClient

from tests.support.scans import affine, arrays
from tests.support.service import bearer, ended, service_of

TABLE = "id,volume_ml,x\na,20,0.4\nb,40,0.6\n"
ASKED = {"conditions": TABLE, "steps": 1, "seed": 3}


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def idle(tiny_bundle: Bundle, jobs: Path) -> Iterator[TestClient]:
    """A service whose jobs stay where they are."""
    service, _ = service_of(tiny_bundle.path, jobs)
    yield TestClient(create_app(service), headers=bearer(jobs))
    service.__exit__()


@pytest.fixture(scope="module")
def refusing(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Path]]:
    """A service in which tests leave nothing, and its directory."""
    jobs = tmp_path_factory.mktemp("refusing") / "jobs"
    service, _ = service_of(tiny_bundle.path, jobs, burst=10_000)
    yield TestClient(create_app(service), headers=bearer(jobs)), jobs
    service.__exit__()


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    names = {name: hashlib.sha256(f"token of {name}".encode()).hexdigest() for name in ("anna", "bert")}
    path.write_text("# clients\n" + "".join(f"{name} {digest}\n" for name, digest in names.items()))
    path.chmod(0o600)
    return path


def nifti(array: np.ndarray, **more: Any) -> bytes:
    return gzip.compress(nib.Nifti1Image(array, affine()).to_bytes(), **more)


WRONG = (
    {},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Basic bG9jYWw6d3Jvbmc="},
    {"Authorization": "Basic !!!"},
    {"Authorization": "Bearer " + "x" * 100_000},
    {"Authorization": "Digest x"},
    {"authorization": "Bearer \xff\xfe"},
)


@pytest.mark.parametrize("headers", WRONG)
def test_without_a_token_nobody_gets_anything(refusing: tuple[TestClient, Path], headers: dict[str, str]) -> None:
    plain = TestClient(refusing[0].app)
    sent = [(name, value.encode("latin-1")) for name, value in headers.items()]
    for path in ("/v1/health", "/v1/metrics", "/v1/jobs", "/docs", "/openapi.json", "/nothing", "/v1/jobs/../jobs"):
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
            answer = plain.request(method, path, headers=sent)
            assert answer.status_code == 401
            assert method == "HEAD" or answer.json() == {"error": "give a token: Authorization: Bearer TOKEN"}


def test_a_browser_may_read_by_basic_and_change_nothing(idle: TestClient, jobs: Path) -> None:
    token = bearer(jobs)["Authorization"].removeprefix("Bearer ")
    basic = {"Authorization": "Basic " + base64.b64encode(f"local:{token}".encode()).decode()}
    plain = TestClient(idle.app, headers=basic)
    assert plain.get("/docs").status_code == 200
    assert plain.post("/v1/jobs", json={"count": 1}).status_code == 401
    other = "Basic " + base64.b64encode(f"somebody:{token}".encode()).decode()
    assert plain.get("/docs", headers={"Authorization": other}).status_code == 401


def test_pages_load_nothing_from_anywhere(idle: TestClient) -> None:
    page = idle.get("/docs")
    assert "/v1/jobs/{job_id}/inputs/{name}" in page.text
    for loading in ("<script", "<link", "<img", "src=", "href=", "@import", "url("):
        assert loading not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    described = idle.get("/openapi.json").json()
    assert {"/v1/jobs", "/v1/jobs/{job_id}/files/{path}", "/v1/metrics"} <= described["paths"].keys()
    assert described["paths"]["/v1/jobs"]["post"]["responses"]["422"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Problem"
    }


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({}, "give count N, conditions FILE or both"),
        ({"count": 0}, "count: Input should be greater than or equal to 1"),
        ({"count": 1001}, "at most 1000 a job"),
        ({"count": "3"}, "count: Input should be a valid integer"),
        ({"count": 1, "path": "/etc/passwd"}, "path: Extra inputs are not permitted"),
        ({"count": 1, "out": "/tmp/x"}, "out: Extra inputs"),
        ({"count": 1, "model": "../../x"}, "there is none of this name"),
        ({"count": 1, "steps": 9999}, "steps 9999: must be from 1 to"),
        ({"conditions": "volume_ml\n-1\n"}, "conditions.csv:2: volume_ml: -1"),
        ({"conditions": "volume_ml\n"}, "conditions.csv"),
        ({"conditions": "\ud800"}, "conditions"),
        ({"conditions": "\x00" * 100}, "conditions"),
        ({"count": 1, "kind": "masks"}, "makes mask and image together"),
        ({"count": 1, "strength": 0.5}, "strength: belongs to kind augment"),
        ({"count": 1, "kind": "augment", "labels": "blood=1"}, "labels"),
        ({"conditions": "id,volume_ml\n../x,20\n", "name_by": "id"}, "conditions.csv"),
    ],
)
def test_what_cannot_be_made_is_refused_and_leaves_nothing(
    refusing: tuple[TestClient, Path], asked: dict[str, Any], named: str
) -> None:
    idle, jobs = refusing
    answer = idle.post("/v1/jobs", content=json.dumps(asked), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert named in answer.json()["error"]
    assert str(jobs) not in answer.text
    assert [path for path in (jobs / "jobs").rglob("*") if path.is_file()] == []
    assert idle.get("/v1/jobs").json() == {"jobs": [], "before": None}


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 422),
        (b"{", "application/json", 422),
        (b"[" * 100_000, "application/json", (400, 422)),
        (b'{"count": 1e999}', "application/json", 422),
        (b'{"count": NaN}', "application/json", 422),
        (b"\xff\xfe", "application/json", (400, 422)),
        (b'{"count": 1}', "text/plain", 422),
        (b"x" * 1_000_001, "application/json", 413),
    ],
)
def test_bodies_that_are_none(
    refusing: tuple[TestClient, Path], content: bytes, kind: str, status: int | tuple[int, ...]
) -> None:
    idle, _ = refusing
    answer = idle.post("/v1/jobs", content=content, headers={"Content-Type": kind})
    assert answer.status_code in (status if isinstance(status, tuple) else (status,)), answer.text
    assert len(answer.json()["error"]) < 7000
    assert idle.get("/v1/health").status_code == 200


def test_a_client_sees_its_own_jobs_alone(tiny_bundle: Bundle, jobs: Path, tokens: Path) -> None:
    service, _ = service_of(tiny_bundle.path, jobs, tokens=tokens)
    anna, bert = (
        TestClient(create_app(service), headers={"Authorization": f"Bearer token of {name}"})
        for name in ("anna", "bert")
    )
    job = anna.post("/v1/jobs", json=ASKED).json()["id"]
    assert [found["id"] for found in anna.get("/v1/jobs").json()["jobs"]] == [job]
    assert bert.get("/v1/jobs").json()["jobs"] == []
    for method, path in [
        ("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("POST", "/start"), ("PUT", "/inputs/t1"), ("GET", "/files"),
        ("GET", "/files/run.json"),
    ]:  # fmt: skip
        answer = bert.request(method, f"/v1/jobs/{job}{path}")
        assert (answer.status_code, answer.json()) == (404, {"error": "no such job"})
    assert anna.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    assert not (jobs / "token").exists()
    service.__exit__()


def test_bounds_hold(tiny_bundle: Bundle, jobs: Path, tokens: Path) -> None:
    service, _ = service_of(
        tiny_bundle.path, jobs, tokens=tokens, queue=3, client_queue=2, rate=0.001, burst=20, client_bytes=4 * 2**20
    )
    anna, bert = (
        TestClient(create_app(service), headers={"Authorization": f"Bearer token of {name}"})
        for name in ("anna", "bert")
    )
    codes = [anna.post("/v1/jobs", json=ASKED).status_code for _ in range(3)]
    assert codes == [201, 201, 429]
    assert [bert.post("/v1/jobs", json=ASKED).status_code for _ in range(2)] == [201, 429]
    big = bert.post("/v1/jobs", json={"count": 900, "kind": "augment"})
    assert big.status_code == 429
    codes = [anna.get("/v1/health").status_code for _ in range(30)]
    assert codes == [200] * 17 + [429] * 13
    assert "retry-after" in anna.get("/v1/health").headers
    assert bert.get("/v1/health").status_code == 200
    service.__exit__()


@pytest.fixture
def waiting(idle: TestClient) -> str:
    """A job that waits for a case."""
    answer = idle.post("/v1/jobs", json={"kind": "augment", "count": 1, "steps": 2, "strength": 0.5})
    assert answer.json()["state"] == "waiting"
    return answer.json()["id"]


def test_uploads_that_are_no_scans_are_refused_and_leave_nothing(idle: TestClient, jobs: Path, waiting: str) -> None:
    scan = nifti(arrays()["t1"])
    plain = gzip.decompress(scan)
    header = bytearray(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), affine()).to_bytes())
    header[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    for name, body, status in [
        ("t1", b"", 422),
        ("t1", b"x" * 1000, 422),
        ("t1", gzip.compress(b"x" * 1000), 422),
        ("t1", scan[:200], 422),
        ("t1", scan[:-9], 422),
        ("t1", scan[:-4] + b"abcd", 422),
        ("t1", plain[:-1], 422),
        ("t1", plain + b"\0" * 2**21, 422),
        ("t1", gzip.compress(plain + b"\0" * 2**25, 1), 422),
        ("t1", b"\x1f\x8b" + b"\0" * 1000, 422),
        ("t1", gzip.compress(bytes(header)), 422),
        ("t3", scan, 422),
        ("..", scan, (404, 405)),
        ("%2e%2e", scan, (404, 405, 422)),
        ("..%2f..%2ftoken", scan, (404, 405)),
        ("t1%00", scan, 422),
        ("T1", scan, 422),
        ("t" * 500, scan, 422),
    ]:
        answer = idle.put(f"/v1/jobs/{waiting}/inputs/{name}", content=body)
        assert answer.status_code in (status if isinstance(status, tuple) else (status,)), (name, answer.text)
    assert {path.name for path in (jobs / "jobs").rglob("*") if path.is_file()} == {"job.json"}
    assert idle.get(f"/v1/jobs/{waiting}").json()["uploads"] == {}
    assert idle.post(f"/v1/jobs/{waiting}/start").json() == {"error": "still to be uploaded: t1, t1ce, t2, flair, seg"}


def test_an_oversize_upload_is_cut_off_told_or_not(tiny_bundle: Bundle, jobs: Path) -> None:
    service, _ = service_of(tiny_bundle.path, jobs, upload_bytes=100_000)
    client = TestClient(create_app(service), headers=bearer(jobs))
    job = client.post("/v1/jobs", json={"kind": "augment", "count": 1}).json()["id"]
    scan = nib.Nifti1Image(arrays()["t1"], affine()).to_bytes()
    assert len(scan) > 100_000
    assert client.put(f"/v1/jobs/{job}/inputs/t1", content=scan).status_code == 413
    pieces = (scan[k : k + 5000] for k in range(0, len(scan), 5000))
    assert client.put(f"/v1/jobs/{job}/inputs/t1", content=pieces).status_code == 413
    assert {path.name for path in (jobs / "jobs").rglob("*") if path.is_file()} == {"job.json"}
    assert client.put(f"/v1/jobs/{job}/inputs/t1", content=nifti(arrays()["t1"])).status_code == 200
    service.__exit__()


def test_an_upload_that_comes_again_replaces_the_one_before(idle: TestClient, jobs: Path, waiting: str) -> None:
    image = nib.Nifti1Image(arrays()["t1"], affine()).to_bytes()
    for body in (nifti(arrays()["t1"]), image, image):
        assert idle.put(f"/v1/jobs/{waiting}/inputs/t1", content=body).json()["uploads"] == {"t1": len(body)}
    files = [path for path in (jobs / "jobs").rglob("*_t1*")]
    assert [path.read_bytes() for path in files] == [image]
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    assert idle.delete(f"/v1/jobs/{waiting}").status_code == 204
    assert list((jobs / "jobs" / "local").iterdir()) == []


def test_ten_thousand_jobs_in_pages(tiny_bundle: Bundle, jobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page costs what is on it; each job is on one page alone, and a restart finds them all."""
    from sbldm.engine.service import store as module
    from sbldm.engine.service.job import STATES
    from sbldm.engine.service.store import Reserved, Store

    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(module, "append", lambda *_: "")
    fields = {
        "client": "local", "kind": "generate", "model": "m", "options": {}, "reading": {}, "strength": None,
        "state": "done",
    }  # fmt: skip
    store = Store(jobs)
    for _ in range(300):
        store.create(fields, None, lambda _: Reserved(1, 10))
    first = store.all()[0]
    with store._lock:  # the others are made in memory: files take long here
        for number in range(301, 10_001):
            store._put(first.with_(id=f"{number:032x}", number=number))
    looked: list[str] = []

    class Watched(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            looked.append(key)
            return super().__getitem__(key)

    store._jobs = Watched(store._jobs)
    assert [job.number for job in store.newest("local", None, 50, None)] == list(range(10_000, 9_950, -1))
    assert [job.number for job in store.newest("local", 9_951, 50, "done")] == list(range(9_950, 9_900, -1))
    assert len(looked) == 100
    for number in (3, 7000):
        store._put(store._jobs[store._ids[number]].with_(state="failed"))
    looked.clear()
    assert [job.number for job in store.newest("local", None, 50, "failed")] == [7000, 3]
    assert [job.number for job in store.newest("local", 7002, 2, "done")] == [7001, 6999]
    assert store.newest("local", None, 50, "queued") == []
    assert len(looked) == 4
    assert store.held("local") == (10_000, 0, 100_000)
    assert store.states() == {**dict.fromkeys(STATES, 0), "done": 9_998, "failed": 2}
    assert store.newest("somebody", None, 50, None) == []
    store.close()
    again = Store(jobs)
    assert [job.number for job in again.all()] == list(range(1, 301))
    again.close()


def test_what_a_killed_service_left_half_made_is_cleared(tiny_bundle: Bundle, jobs: Path) -> None:
    service, _ = service_of(tiny_bundle.path, jobs)
    client = TestClient(create_app(service), headers=bearer(jobs))
    waiting = client.post("/v1/jobs", json={"kind": "augment", "count": 1}).json()["id"]
    service.__exit__()
    upload = jobs / "jobs" / "local" / waiting / "inputs" / "case" / "case_t1.nii.gz.7.tmp"
    upload.parent.mkdir(parents=True)
    upload.write_bytes(b"half")
    half = jobs / "jobs" / "local" / ("ab" * 16)
    (half / "inputs" / "case").mkdir(parents=True)
    (half / "inputs" / "case" / "case_t1.nii.gz.7.tmp").write_bytes(b"half")
    (half / "link").symlink_to(jobs)
    broken = jobs / "jobs" / "local" / ("cd" * 16)
    broken.mkdir()
    (broken / "job.json").write_text("{")
    service, _ = service_of(tiny_bundle.path, jobs)
    assert not half.exists()
    assert not upload.exists()
    assert service.store.get("local", waiting) is not None
    assert (jobs / "token").exists()
    assert (broken / "job.json").read_text() == "{"
    service.__exit__()


def test_a_directory_is_one_services_own(tiny_bundle: Bundle, jobs: Path, tmp_path: Path) -> None:
    from sbldm.engine.errors import UsageError

    service, _ = service_of(tiny_bundle.path, jobs)
    with pytest.raises(UsageError, match="another service runs on it"):
        service_of(tiny_bundle.path, jobs)
    service.__exit__()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("years")
    with pytest.raises(UsageError, match="holds files and is no service's"):
        service_of(tiny_bundle.path, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis"]


def hashes(answers: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in answers.items()}


@pytest.fixture(scope="module")
def busy(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Service, Any]]:
    """A service that makes jobs, and its log."""
    jobs = tmp_path_factory.mktemp("busy") / "jobs"
    service, log = service_of(tiny_bundle.path, jobs)
    with service:
        yield TestClient(create_app(service), headers=bearer(jobs)), service, log


def test_a_job_gives_what_the_command_line_gives(
    busy: tuple[TestClient, Service, io.StringIO], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    client, service, _ = busy
    made = client.post("/v1/jobs", json=ASKED)
    assert made.status_code == 201
    job = made.json()["id"]
    status = ended(client, job)
    assert (status["state"], status["samples"], status["done"], status["faulty"]) == ("done", 2, 2, 0)
    names = [file["path"] for file in client.get(f"/v1/jobs/{job}/files").json()]
    assert {"run.json", "ledger.jsonl", "manifest.csv"} <= set(names)
    assert len(names) == 3 + 10
    got = {name: client.get(f"/v1/jobs/{job}/files/{name}").content for name in names}
    (tmp_path / "cond.csv").write_text(TABLE)
    asked = ["--conditions", str(tmp_path / "cond.csv"), "--steps", "1", "--seed", "3", "--threads", "1", "--quiet"]
    out = tmp_path / "out"
    assert main(["generate", "--bundle", str(tiny_bundle.path), *asked, "--out", str(out)]) == 0
    ours = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    trail = ours.pop("audit.jsonl")
    assert hashes(got) == hashes(ours)
    assert trail
    for path in ("audit.jsonl", "%2e%2e/job.json", "%2e%2e%2fjob.json", "%2fetc/passwd", "run.json/x", "%2e", "%00"):
        assert client.get(f"/v1/jobs/{job}/files/{path}").json() == {"error": "no such file"}
    run = service.settings.jobs / "jobs" / "local" / job / "run"
    (run / "sbldm-000000/sbldm-000000_t1.nii.gz").unlink()
    (run / "sbldm-000000/sbldm-000000_t1.nii.gz").symlink_to(service.settings.jobs / "token")
    assert client.get(f"/v1/jobs/{job}/files/sbldm-000000/sbldm-000000_t1.nii.gz").status_code == 404
    line = json.loads((run / "audit.jsonl").read_text().splitlines()[0])
    assert (line["client"], line["command"]) == ("local", ["sbldm-engine", "serve", f"job {job}"])
    modes = {stat.S_IMODE(path.lstat().st_mode) & 0o077 for path in run.rglob("*") if not path.is_symlink()}
    assert modes == {0}
    assert client.post(f"/v1/jobs/{job}/cancel").status_code == 409
    assert client.delete(f"/v1/jobs/{job}").status_code == 204
    assert client.get(f"/v1/jobs/{job}").status_code == 404
    assert not run.parent.exists()
    events = [json.loads(line) for line in (service.settings.jobs / "audit.jsonl").read_text().splitlines()]
    mine = [event for event in events if event["subject"]["job"] == job]
    assert [event["event"] for event in mine] == ["job made", "job done", "job removed"]
    assert len(mine[-1]["outcome"]["audit_head"]) == 64
    assert "sbldm_service_samples_made 2.0" in client.get("/v1/metrics").text


def test_an_uploaded_case_is_made_from_and_told_of_nowhere(busy: tuple[TestClient, Service, io.StringIO]) -> None:
    client, service, log = busy
    conditions = "id,volume_ml\nMUSTERMANN,20\n"
    asked = {"kind": "augment", "steps": 2, "conditions": conditions}
    job = client.post("/v1/jobs", json=asked).json()["id"]
    for name, array in arrays().items():
        assert client.put(f"/v1/jobs/{job}/inputs/{name}", content=nifti(array)).status_code == 200
    assert client.post(f"/v1/jobs/{job}/start").json()["state"] == "queued"
    assert client.put(f"/v1/jobs/{job}/inputs/t1", content=nifti(arrays()["t1"])).status_code == 409
    status = ended(client, job)
    assert (status["state"], status["reason"]) == ("done", None)
    notice = client.get(f"/v1/jobs/{job}/files/run.json").json()["notice"]
    assert "derived from the scan of a case" in notice
    bad = client.post("/v1/jobs", json=asked).json()["id"]
    for name, array in arrays().items():
        empty = array * (name != "seg")
        assert client.put(f"/v1/jobs/{bad}/inputs/{name}", content=nifti(empty)).status_code == 200
    client.post(f"/v1/jobs/{bad}/start")
    status = ended(client, bad)
    assert status["state"] == "failed"
    assert "seg" in status["reason"]
    assert str(service.settings.jobs) not in status["reason"]
    give_up = time.monotonic() + 10
    while f'"job": "{bad}"' not in log.getvalue().splitlines()[-1]:
        assert time.monotonic() < give_up
        time.sleep(0.01)
    assert "MUSTERMANN" not in log.getvalue()
    assert "MUSTERMANN" not in (service.settings.jobs / "audit.jsonl").read_text()
