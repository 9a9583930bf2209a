"""What the page is answered with, without a browser: volumes are those of `generate`, wishes those of its tables."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shlex
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.generator import Generator
from sbldm.engine.output.nifti import nifti_bytes
from sbldm.engine.service.logs import Logs
from sbldm.engine.service.settings import Listening
from sbldm.engine.service.tokens import LOCAL, Tokens
from sbldm.engine.studio.app import create_app
from sbldm.engine.studio.studio import Studio
from sbldm.engine.telemetry import EventLog
from starlette.testclient import TestClient

from tests.support import scans

PAGE, OTHER, TOKEN = "a" * 32, "b" * 32, "secret"
MASK_SHAPE, MASK_SPACING = (32, 32, 16), (6.0, 6.0, 9.6)


@pytest.fixture(scope="module")
def studio(tiny_mask_first_bundle: Bundle) -> Iterator[Studio]:
    with Studio(Generator.load(tiny_mask_first_bundle.path, threads=1)) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(studio: Studio) -> Iterator[TestClient]:
    logs = Logs(EventLog("json"))
    tokens = Tokens({LOCAL: hashlib.sha256(TOKEN.encode()).hexdigest()})
    app = create_app(studio, Listening(rate=1000, burst=10_000), tokens, logs)
    yield TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"}, raise_server_exceptions=False)
    logs.close()


def wish(**more: Any) -> dict[str, Any]:
    return {"cells": {"volume_ml": "30", "x": "0.4"}, "steps": 1, "seed": 3, **more}


def made(client: TestClient, asked: dict[str, Any], page: str = PAGE) -> dict[str, Any]:
    answer = client.post(f"/api/volumes?page={page}", json={"wish": asked, "pane": "a"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def files(client: TestClient, key: str) -> dict[str, bytes]:
    roles = ("t1", "t1ce", "t2", "flair", "seg")
    return {role: client.get(f"/api/volumes/{key}/{role}.nii.gz").content for role in roles}


def framed(parts: dict[str, bytes]) -> bytes:
    listed = json.dumps([[name, len(data)] for name, data in parts.items()]).encode()
    return len(listed).to_bytes(8, "big") + listed + b"".join(parts.values())


def give(client: TestClient, parts: dict[str, bytes], page: str = PAGE, how: str = "") -> Any:
    return client.put(f"/api/given?page={page}{how}", content=framed(parts))


def mask_file(times: int = 1) -> bytes:
    seg = scans.arrays(MASK_SHAPE, MASK_SPACING, tumour=(20, 10, 0))["seg"] * np.uint8(times)
    return nifti_bytes(seg, scans.affine(MASK_SPACING, MASK_SHAPE), "")


def test_without_the_token_the_page_alone_is_given(client: TestClient) -> None:
    plain = TestClient(client.app)
    page = plain.get("/")
    assert page.status_code == 200
    assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert {"/assets/main.js", "/assets/niivue.js", "/assets/report.css"} <= {*loaded}
    for address in loaded:
        assert plain.get(address).status_code == 200, address
    for method, path in (
        ("GET", "/api/model"),
        ("POST", "/api/volumes"),
        ("PUT", "/api/given"),
        ("POST", "/"),
        ("GET", "/x"),
    ):
        answer = plain.request(method, f"{path}?page={PAGE}")
        assert answer.status_code == 401
        assert "www-authenticate" not in answer.headers  # a browser would ask for a password


def test_a_wish_is_told_what_a_table_is_told(
    client: TestClient, tiny_mask_first_bundle: Bundle, tmp_path: Path, capsys
) -> None:
    cells = {"volume_ml": "-5", "ncr_share": "0.9", "et_share": "0.4", "x": "none"}
    told = client.post("/api/wish", json={"cells": cells}).json()
    table = tmp_path / "wish.csv"
    names = [column.name for column in tiny_mask_first_bundle.manifest.condition_columns if column.name in cells]
    table.write_text(f"id,{','.join(names)}\nwish-0,{','.join(cells[name] for name in names)}\n")
    assert main(["conditions", "check", str(table), "--bundle", str(tiny_mask_first_bundle.path)]) == 3
    faults = capsys.readouterr().err.removeprefix("error: ").replace(f"{tmp_path}/", "").splitlines()
    assert told["faults"] == [line for line in faults if line.startswith("wish.csv")]
    assert len(told["faults"]) == 3


def test_what_is_open_is_drawn_and_told(client: TestClient) -> None:
    usual = client.post("/api/wish", json={"cells": {"volume_ml": "30"}}).json()
    assert usual["row"]["volume_ml"] == 30
    assert "volume_ml" not in usual["drawn"]
    assert len(usual["drawn"]) == 11
    assert sum(usual["row"][name] for name in ("ncr_share", "ed_share", "et_share")) == pytest.approx(1)
    far = client.post("/api/wish", json={"cells": {"volume_ml": "900"}}).json()
    assert usual["distance"] < usual["limit"] < far["distance"]
    assert any("training cases" in line for line in far["warnings"])
    other = client.post("/api/wish", json={"cells": {"volume_ml": "30"}, "number": 1}).json()
    assert other["row"]["x"] != usual["row"]["x"]


def test_a_basket_makes_what_was_seen_byte_for_byte(client: TestClient, tmp_path: Path, monkeypatch) -> None:
    rows, seen = [], {}
    for number, more in enumerate(({}, {"cells": {"volume_ml": "12.5"}}, {"seed": 4}, {})):
        asked = wish(number=number, **more)
        rows.append({"id": f"case-{number}", "wish": asked, "out": number == 0})
        seen[number] = files(client, made(client, asked)["key"])
    taken = client.post("/api/basket", json={"rows": rows}).json()
    assert len(taken["commands"]) == 2  # another seed is another run
    assert "--samples 1,3" in taken["commands"][0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "basket.csv").write_text(taken["tables"]["basket.csv"])
    for command in taken["commands"]:
        assert main([*shlex.split(command)[1:], "--quiet"]) == 0
    for number, out in ((1, "basket"), (3, "basket"), (2, "basket-2")):
        for role, data in seen[number].items():
            name = f"sbldm-{number:06d}"
            assert (tmp_path / out / name / f"{name}_{role}.nii.gz").read_bytes() == data
    assert not (tmp_path / "basket" / "sbldm-000000").exists()
    script = taken["python"].replace('save("basket', 'save("python')
    exec(compile(script, "basket.py", "exec"), {})
    assert (tmp_path / "python/sbldm-000003/sbldm-000003_t1.nii.gz").read_bytes() == seen[3]["t1"]


def test_a_row_stands_in_its_place(client: TestClient) -> None:
    for rows in ([], [{"id": "a", "wish": wish(number=1)}], [{"id": "a", "wish": wish(), "out": True}]):
        assert client.post("/api/basket", json={"rows": rows}).status_code == 422
    twice = client.post(
        "/api/basket", json={"rows": [{"id": "a", "wish": wish()}, {"id": "a", "wish": wish(number=1)}]}
    )
    assert "each id once" in twice.json()["error"]


def test_the_same_wish_is_made_once(client: TestClient, studio: Studio, monkeypatch) -> None:
    first = made(client, wish(seed=8))
    monkeypatch.setattr(studio.generator, "samples", None)
    again = made(client, wish(seed=8, cells={"x": "0.4 ", "volume_ml": "30", "y": ""}), OTHER)
    assert again == first
    monkeypatch.undo()
    assert made(client, wish(seed=9))["key"] != first["key"]


def test_a_newer_wish_ends_the_one_before_at_its_next_step(client: TestClient, studio: Studio) -> None:
    answers: list[dict[str, Any]] = []

    def ask(seed: int) -> None:
        body = {"wish": wish(seed=seed, steps=900), "pane": "a"}
        answers.append(client.post(f"/api/volumes?page={PAGE}", json=body).json())

    threads = []
    for seed in (20, 21):
        before = set(studio.maker._works)
        threads.append(threading.Thread(target=ask, args=(seed,)))
        threads[-1].start()
        while not set(studio.maker._works) - before:
            time.sleep(0.01)
    assert made(client, wish(seed=22))["seed"] == 22
    for thread in threads:
        thread.join(60)
    assert answers == [{"given_up": True}] * 2


def test_what_is_kept_is_bounded(client: TestClient, studio: Studio, monkeypatch) -> None:
    first = made(client, wish(seed=30))["key"]
    monkeypatch.setattr(studio.maker, "_most", 1)
    second = made(client, wish(seed=31))["key"]
    assert client.get(f"/api/volumes/{first}/t1.nii.gz").status_code == 410
    assert client.get(f"/api/volumes/{second}/t1.nii.gz").status_code == 200


def test_a_picture_for_browsers_without_webgl(client: TestClient) -> None:
    key = made(client, wish(seed=3))["key"]
    assert client.get(f"/api/volumes/{key}/picture.png").content.startswith(b"\x89PNG")


def test_a_dropped_mask_comes_back_voxel_for_voxel_and_leaves_nothing(
    client: TestClient, studio: Studio, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("sbldm.engine.studio.given._IN_MEMORY", tmp_path / "none")
    given = give(client, {"../../my mask.nii.gz": mask_file()}).json()
    assert (given["starts"], given["name"]) == (["mask"], "my_mask")
    assert list(tmp_path.iterdir()) == []
    asked = wish(start="mask", given=given["id"], cells={})
    seg = files(client, made(client, asked)["key"])["seg"]
    held = studio.given.get(PAGE, given["id"]).mask
    assert held is not None
    assert np.array_equal(voxels(seg) > 0, held.label(0) > 0)
    assert voxels(seg).any()
    taken = client.post("/api/basket", json={"rows": [row(asked, given)]}).json()
    assert taken["commands"][0].startswith("sbldm-engine generate --masks MASKS --count 1")
    again = {"wish": wish(start="mask", given=given["id"], seed=99), "pane": "a"}
    gone = {"error": "the dropped file is not held any more; drop it again"}
    assert client.post(f"/api/volumes?page={OTHER}", json=again).json() == gone  # of another page
    key = made(client, asked)["key"]
    assert client.post(f"/api/leave?page={PAGE}").status_code == 204
    assert client.post(f"/api/volumes?page={PAGE}", json=again).json() == gone
    assert client.get(f"/api/volumes/{key}/t1.nii.gz").status_code == 410  # nor what came of it


def row(asked: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    return {"id": "own", "wish": asked, "given_name": given["name"]}


def voxels(data: bytes) -> np.ndarray:
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(data)).dataobj)


def test_a_dropped_scan_is_changed_as_the_command_changes_it(
    client: TestClient, studio: Studio, tmp_path: Path, monkeypatch
) -> None:
    case = scans.write_case(tmp_path, "scan")
    given = give(client, {path.name: path.read_bytes() for path in sorted(case.iterdir())}).json()
    assert (given["starts"], given["name"]) == (["insert", "replace", "remove", "change"], "scan")
    assert set(given["grid"]["windows"]) == {"t1", "t1ce", "t2", "flair"}
    asked = wish(start="change", given=given["id"], strength=0.5, steps=2)
    key = made(client, asked)["key"]
    seen, kept = files(client, key), studio.maker.get(key)
    assert kept is not None
    assert kept.origin == "from a real case"  # which its picture says
    taken = client.post("/api/basket", json={"rows": [row(asked, given)]}).json()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "basket.csv").write_text(taken["tables"]["basket.csv"])
    words = shlex.split(taken["commands"][0].replace("SCAN", str(case)))
    assert main([*words[1:], "--quiet"]) == 0
    assert (tmp_path / "basket/sbldm-000000/sbldm-000000_flair.nii.gz").read_bytes() == seen["flair"]


@pytest.mark.parametrize("start", ["insert", "replace", "remove"])
def test_a_lesion_in_a_scan_is_the_commands_on_the_scans_voxels(
    client: TestClient, studio: Studio, tmp_path: Path, monkeypatch, start: str
) -> None:
    """Beside a drawn row whose place lies outside of the scan's brain: it is no row of the scan's table."""
    case = scans.write_case(tmp_path, "scan")
    given = give(client, {f"scan/{path.name}": path.read_bytes() for path in sorted(case.iterdir())}).json()
    cells = {"volume_ml": "9", "x": "0.35", "y": "0.45", "z": "0.5"}
    far = wish(cells={"volume_ml": "9", "x": "0.03", "y": "0.03", "z": "0.03"})
    asked = wish(start=start, given=given["id"], steps=2, number=1, cells=cells)
    facts = made(client, asked)
    seen = files(client, facts["key"])
    for role in ("t1", "flair"):
        before, after = voxels((case / f"scan_{role}.nii.gz").read_bytes()), voxels(seen[role])
        assert before.shape == after.shape
        changed = np.count_nonzero(before != after)
        assert 0 < changed * 4 * 4 * 4.8 / 1000 <= facts["changed_ml"] + 1e-6 < 1000
    shown = client.get(f"/api/given/{given['id']}/own/t1.nii.gz?page={PAGE}").content
    assert np.array_equal(voxels(shown), voxels((case / "scan_t1.nii.gz").read_bytes()))
    assert client.get(f"/api/volumes/{facts['key']}/picture.png").content.startswith(b"\x89PNG")

    taken = client.post("/api/basket", json={"rows": [{"id": "free", "wish": far}, row(asked, given)]}).json()
    monkeypatch.chdir(tmp_path)
    for name, text in taken["tables"].items():
        (tmp_path / name).write_text(text)
    command = next(line for line in taken["commands"] if " augment " in line)
    assert main([*shlex.split(command.replace("SCAN", str(case)))[1:], "--quiet"]) == 0
    out = Path(shlex.split(command)[-1]) / "sbldm-000001"
    for role, data in seen.items():
        assert (tmp_path / out / f"sbldm-000001_{role}.nii.gz").read_bytes() == data, role


def test_a_healthy_scan_takes_a_lesion_and_a_place_outside_of_it_is_told(client: TestClient, tmp_path: Path) -> None:
    case = scans.write_case(tmp_path, "healthy", {k: v for k, v in scans.arrays().items() if k != "seg"})
    given = give(client, {path.name: path.read_bytes() for path in sorted(case.iterdir())}).json()
    assert given["starts"] == ["insert"]
    cells = {"volume_ml": "9", "x": "0.03", "y": "0.03", "z": "0.03"}
    asked = {"wish": wish(start="insert", given=given["id"], cells=cells), "pane": "a"}
    answer = client.post(f"/api/volumes?page={PAGE}", json=asked)
    assert answer.status_code == 422
    assert "inside the scan's brain" in answer.json()["error"]
    asked["wish"]["start"] = "remove"
    assert "allowed is insert" in client.post(f"/api/volumes?page={PAGE}", json=asked).json()["error"]


def test_folders_of_one_name_a_series_keep_them_apart(client: TestClient, studio: Studio, tmp_path: Path) -> None:
    """A study as archives export it: every series in a folder of its own, its files called alike."""
    pytest.importorskip("highdicom")
    from tests.support import dicom_study

    study = dicom_study.write_study(tmp_path / "study")
    parts = {"DOE/SEG/IM1": (study / "SEG").read_bytes()}
    for modality in dicom_study.MODALITIES:
        for number, path in enumerate(dicom_study.files_of(study, modality)):
            parts[f"DOE/{modality}/IM{number}"] = path.read_bytes()
    given = give(client, parts).json()
    assert (given["name"], given["starts"]) == ("DOE", ["change"])
    facts = made(client, wish(start="change", given=given["id"], strength=0.4, steps=2, cells={}))
    assert facts["measured_ml"] > 0
    assert client.get(f"/api/given/{given['id']}/grid/picture.png?page={PAGE}").content.startswith(b"\x89PNG")
    assert client.get(f"/api/given/{given['id']}/own/t1.nii.gz?page={PAGE}").status_code == 404


def test_what_silent_pages_dropped_is_forgotten_and_all_of_them_hold_a_bounded_part(
    client: TestClient, studio: Studio, monkeypatch
) -> None:
    page = "d" * 32
    first = give(client, {"m.nii.gz": mask_file()}, page).json()["id"]
    monkeypatch.setattr("sbldm.engine.studio.given.MOST_BYTES", 1)
    second = give(client, {"m.nii.gz": mask_file()}, page).json()["id"]
    assert client.get(f"/api/here?page={page}").json() == {"held": [second]}
    assert first != second
    monkeypatch.setattr("sbldm.engine.studio.given.FORGOTTEN_S", 0.0)
    assert studio.given.forget_silent() >= {second}
    assert client.get(f"/api/here?page={page}").json() == {"held": []}


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"notes.nii.gz": b"no scan"}, "notes"),
        ({"a.txt": b"x", "b.txt": b"y"}, "no case found"),
        ({"m.nii.gz": mask_file(0)}, "empty"),
        ({"a_t1.nii.gz": mask_file(), "a_seg.nii.gz": mask_file()}, "missing modality t1ce, t2, flair"),
        ({"a/x": b"x", "a": b"y"}, "same name"),
        ({"x/IM1": b"x", "y/im1": b"y"}, "no case found"),
    ],
    ids=["text", "texts", "empty-mask", "two-of-five", "file-and-folder", "folders"],
)  # fmt: skip
def test_what_is_no_scan_is_told_and_nothing_is_held(client: TestClient, studio: Studio, parts, told: str) -> None:
    page = "c" * 32
    answer = give(client, parts, page)
    assert answer.status_code == 422
    assert told in answer.json()["error"]
    assert "/tmp" not in answer.json()["error"]
    assert "sbldm-studio-" not in answer.json()["error"]
    assert studio.here(page) == []


@pytest.mark.parametrize(
    "body", [b"", b"\x00" * 7, b"\xff" * 8, b"\x00" * 7 + b"\x02[]", framed({"a.nii": b"12"})[:-1]]
)
def test_bodies_that_are_none(client: TestClient, body: bytes) -> None:
    assert client.put(f"/api/given?page={PAGE}", content=body).status_code == 422


def test_run_directory(client: TestClient, tmp_path: Path) -> None:
    rows = [{"id": "one", "wish": wish()}, {"id": "two", "wish": wish(number=1)}]
    body = {"basket": {"rows": rows}, "out": str(tmp_path / "mine")}
    assert client.post(f"/api/run?page={PAGE}", json={**body, "out": " "}).status_code == 422
    began = time.monotonic()
    assert client.post(f"/api/run?page={PAGE}", json=body).status_code == 200
    while (told := client.get(f"/api/run?page={PAGE}").json())["state"] == "running":
        assert time.monotonic() - began < 120
        time.sleep(0.1)
    assert (told["state"], told["done"], told["total"]) == ("done", 2, 2)
    assert main(["verify", str(tmp_path / "mine")]) == 0
    key = made(client, wish(number=1))["key"]
    assert (tmp_path / "mine/sbldm-000001/sbldm-000001_t1.nii.gz").read_bytes() == files(client, key)["t1"]


@pytest.mark.parametrize("out", ["/", "a\0b", "~nobody-of-that-name/x", "x" * 300])
def test_no_directory_for_a_run(client: TestClient, out: str) -> None:
    body = {"basket": {"rows": [{"id": "one", "wish": wish()}]}, "out": out}
    answer = client.post(f"/api/run?page={'d' * 32}", json=body)
    assert answer.status_code == 422
    assert "directory" in answer.json()["error"]


def test_a_run_that_is_refused_leaves_no_table(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    page = "e" * 32
    body = {"basket": {"rows": [{"id": "one", "wish": wish()}]}}
    assert client.post(f"/api/run?page={page}", json={**body, "out": str(tmp_path / "file")}).status_code == 422
    assert client.post(f"/api/run?page={page}", json={**body, "out": str(tmp_path / "full")}).status_code == 200
    while (told := client.get(f"/api/run?page={page}").json())["state"] == "running":
        time.sleep(0.1)
    assert told["state"] == "failed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]
