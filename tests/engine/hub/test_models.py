"""`models list`, `pull` and `push`: what comes is what was promised, or nothing comes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle, load_bundle
from sbldm.engine.errors import InvalidInputError, UsageError
from sbldm.engine.hub.http import require_address
from sbldm.engine.hub.index import RemoteModel, index_bytes, parse_index
from sbldm.engine.hub.open_remote import open_remote
from sbldm.engine.locks import lock_file

from tests.support.keys import write_pair
from tests.support.model_server import HubHandler, Server, cut_after, plain, redirect, serving
from tests.support.schemas import held_to

LARGE = "tiny/denoiser.onnx"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of pulled models, empty and not there yet."""
    monkeypatch.setenv("SBLDM_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def shop(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A directory of models that holds `tiny`."""
    out = tmp_path / "shop"
    assert main(["models", "push", str(tiny_bundle.path), "--to", str(out), "--name", "tiny"]) == 0
    return out


@pytest.fixture
def other(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """Another bundle, called `another`."""
    made = Path(shutil.copytree(tiny_bundle.path, tmp_path / "other"))
    data = json.loads((made / "bundle.json").read_text())
    (made / "bundle.json").write_text(json.dumps({**data, "id": "another"}))
    return made


@pytest.fixture
def server(shop: Path) -> Iterator[Server]:
    """The same over HTTP."""
    with serving(shop) as found:
        yield found


def pull(remote: object, *options: str) -> int:
    return main(["models", "pull", "tiny", "--from", str(remote), *options])


def inside(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*")) if folder.is_dir() else []


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def spoil(shop: Path, name: str, data: bytes) -> None:
    (shop / "tiny" / name).write_bytes(data)


def reindexed(shop: Path) -> None:
    """The index of a thief: hashes fit what lies there."""
    raw = (shop / "tiny" / "bundle.json").read_bytes()
    model = RemoteModel(hashlib.sha256(raw).hexdigest(), 1, "tiny", "slices", "none", None)
    (shop / "index.json").write_bytes(index_bytes({"tiny": model}))


def listed_bytes(bundle: Path, name: str, value: int) -> None:
    """A bundle.json that says another size of a file."""
    data = json.loads((bundle / "bundle.json").read_text())
    data["files"][name]["bytes"] = value
    (bundle / "bundle.json").write_text(json.dumps(data))


def test_a_pushed_model_is_pulled_and_found_by_its_name(
    server: Server, tiny_bundle: Bundle, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "list", "--from", server.address, "--json"]) == 0
    (offered,) = held_to("models-list", capsys.readouterr().out)["models"]
    assert (offered["name"], offered["sha256"], offered["id"]) == ("tiny", tiny_bundle.sha256, tiny_bundle.manifest.id)
    assert offered["bytes"] == sum(len(data) for data in content(tiny_bundle.path).values())
    assert pull(server.address, "--sha256", offered["sha256"]) == 0
    assert content(models / "tiny") == content(tiny_bundle.path)
    assert inside(models) == ["tiny", *(f"tiny/{name}" for name in inside(tiny_bundle.path))]
    run = ["generate", "--bundle", "tiny", "--count", "1", "--steps", "1", "--threads", "1", "--quiet"]
    assert main([*run, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["models", "list"]) == 0
    told = capsys.readouterr().out
    assert str(models / "tiny") in told
    assert "phantom" in told
    asked = len(server.asked)
    assert pull(server.address) == 0
    assert "was here" in capsys.readouterr().out
    assert [path for path, _ in server.asked[asked:]] == ["index.json"]


def test_a_directory_needs_no_server_and_no_index(shop: Path, tiny_bundle: Bundle, models: Path) -> None:
    (shop / "index.json").unlink()
    assert list(open_remote(str(shop)).offer().models) == ["tiny"]
    assert pull(shop, "--name", "mine") == 0
    assert load_bundle("mine").sha256 == tiny_bundle.sha256


def test_what_is_broken_in_a_directory_is_named(
    shop: Path, tiny_bundle: Bundle, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shop / "half").mkdir()
    (shop / "half" / "bundle.json").write_text("{}")
    (shop / "mine.bundle").mkdir()
    shutil.copyfile(shop / "tiny" / "bundle.json", shop / "mine.bundle" / "bundle.json")
    listed = json.loads((shop / "index.json").read_text())
    (shop / "index.json").write_text(json.dumps({**listed, "models": {"gone": listed["models"]["tiny"]}}))
    capsys.readouterr()
    assert main(["models", "list", "--from", str(shop), "--json"]) == 0
    told = capsys.readouterr()
    assert [row["name"] for row in json.loads(told.out)["models"]] == ["tiny"]
    for fault in (
        "half/bundle.json: schema_version is None",
        "'mine.bundle' must match",
        "gone/bundle.json: is not there",
    ):
        assert fault in told.err
    assert pull(shop, "--name", "mine") == 0
    assert main(["models", "pull", "half", "--from", str(shop)]) == 3
    assert "half/bundle.json: schema_version" in capsys.readouterr().err
    assert main(["models", "push", str(tiny_bundle.path), "--to", str(shop), "--name", "half"]) == 2
    assert "half: is broken; remove it" in capsys.readouterr().err
    shutil.rmtree(shop / "tiny")
    (shop / "index.json").write_text("{")
    assert main(["models", "list", "--from", str(shop)]) == 3
    told = capsys.readouterr().err
    assert "index.json: not valid JSON" in told
    assert "half/bundle.json" in told
    assert "explain models" in told


def test_without_a_remote_no_network_is_used(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    assert main(["models", "list"]) == 0
    with pytest.raises(AssertionError, match="asked the network"):
        open_remote("https://models.invalid/").offer()


def test_what_broke_off_is_continued(server: Server, tiny_bundle: Bundle, models: Path, capsys) -> None:
    half = len((tiny_bundle.path / "denoiser.onnx").read_bytes()) // 2
    server.answers[LARGE] = cut_after(half)
    assert pull(server.address) == 5
    assert "what came is kept, the same command goes on" in capsys.readouterr().err
    assert not (models / "tiny").exists()
    assert (models / ".tiny.pull" / "denoiser.onnx").stat().st_size == half
    assert main(["models", "list"]) == 0  # half a model has no name
    assert "tiny" not in capsys.readouterr().out
    done = [path for path, _ in server.asked if path.endswith(".onnx")][:-1]
    server.asked.clear()
    assert pull(server.address) == 0
    assert (LARGE, f"bytes={half}-") in server.asked
    assert not {path for path, _ in server.asked} & {*done}
    assert content(models / "tiny") == content(tiny_bundle.path)
    assert inside(models)[0] == "tiny"


def test_a_server_without_parts_and_leftovers_of_another_model(
    server: Server, shop: Path, tiny_bundle: Bundle, models: Path
) -> None:
    """What lay there is of no use: wrong bytes of the right length, a wrong beginning, a foreign file."""
    staging = models / ".tiny.pull"
    staging.mkdir(parents=True)
    sizes = {name: record.bytes for name, record in tiny_bundle.manifest.files.items()}
    (staging / "denoiser.onnx").write_bytes(b"x" * sizes["denoiser.onnx"])
    (staging / "decoder.onnx").write_bytes(b"x" * 10)
    (staging / "encoder.onnx").write_bytes(b"x" * 10)
    (staging / "foreign").write_bytes(b"x")
    server.answers["tiny/encoder.onnx"] = plain((shop / "tiny" / "encoder.onnx").read_bytes())  # 200, from the start
    assert pull(server.address) == 0
    assert content(models / "tiny") == content(tiny_bundle.path)


@pytest.mark.parametrize("fault", ["changed", "longer", "shorter", "missing", "link", "unlisted graph"])
@pytest.mark.parametrize("over", ["directory", "http"])
def test_files_that_are_not_as_listed_leave_nothing(
    server: Server, shop: Path, models: Path, capsys: pytest.CaptureFixture[str], fault: str, over: str
) -> None:
    file = shop / "tiny" / "decoder.onnx"
    data = file.read_bytes()
    if fault == "changed":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif fault == "longer":
        file.write_bytes(data + b"x")
    elif fault == "shorter":
        file.write_bytes(data[:-1])
    elif fault == "unlisted graph":
        spoil(shop, "decoder.onnx", b"no graph")
        hashed = hashlib.sha256(b"no graph").hexdigest()
        manifest = json.loads((shop / "tiny" / "bundle.json").read_text())
        manifest["files"]["decoder.onnx"] = {"bytes": 8, "sha256": hashed}
        (shop / "tiny" / "bundle.json").write_text(json.dumps(manifest))
        reindexed(shop)
    else:
        file.unlink()
        if fault == "link":
            file.symlink_to("/dev/zero")
    code = pull(shop if over == "directory" else server.address)
    assert code == 3
    assert "decoder.onnx" in capsys.readouterr().err
    assert inside(models) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../evil", "files: name '../evil'"),
        ("/tmp/evil", "files: name '/tmp/evil'"),
        (".hidden", "files: name '.hidden'"),
        ("model.sig", "lists model.sig"),
        ("bundle.json", "lists bundle.json"),
    ],
)
def test_paths_of_a_manifest_lead_nowhere(
    server: Server, shop: Path, models: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    data = json.loads((shop / "tiny" / "bundle.json").read_text())
    data["files"][name] = {"bytes": 4, "sha256": "0" * 64}
    (shop / "tiny" / "bundle.json").write_text(json.dumps(data))
    reindexed(shop)
    assert pull(server.address) == 3
    assert message in capsys.readouterr().err
    assert inside(models) == []


def test_a_bundle_that_would_fill_the_disk(server: Server, shop: Path, models: Path, capsys) -> None:
    listed_bytes(shop / "tiny", "decoder.onnx", 10**15)
    reindexed(shop)
    assert pull(server.address) == 3
    assert "at most 10000 files of 17179869184 bytes" in capsys.readouterr().err
    assert inside(models) == []


def test_a_manifest_that_the_index_does_not_mean(server: Server, shop: Path, models: Path, capsys) -> None:
    manifest = shop / "tiny" / "bundle.json"
    manifest.write_bytes(manifest.read_bytes() + b"\n")
    assert pull(server.address) == 3
    assert "its sha256 differs from the index" in capsys.readouterr().err
    reindexed(shop)
    assert pull(server.address, "--sha256", "0" * 64) == 3
    assert "--sha256 says" in capsys.readouterr().err
    assert inside(models) == []


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"<html>", "not valid JSON"),
        (b'{"schema": 2, "models": {}}', "this version reads 1"),
        (b'{"schema": 1, "models": {"../up": 0}}', "must be an object"),
        (b'{"schema": 1, "models": {"a": {}}}', "key 'sha256' is missing"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_an_index_that_is_none(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        parse_index(raw, "index.json")


@pytest.mark.parametrize("name", ["../up", "/abs", "A", "a/b", "", "a" * 65, ".tiny.pull", "a\n"])
def test_names_of_an_index_are_names(name: str) -> None:
    model = RemoteModel("0" * 64, 1, "x", "slices", "none", None)
    with pytest.raises(InvalidInputError, match="must match"):
        parse_index(index_bytes({name: model}), "index.json")
    with pytest.raises(InvalidInputError, match="64 hexadecimal digits"):
        parse_index(index_bytes({"a": RemoteModel("../" + "0" * 61, 1, "x", "slices", "none", None)}), "index.json")


@pytest.mark.parametrize("path", ["index.json", LARGE])
@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "https://127.0.0.1:1/x", "http://models.invalid/x", "//[::bad/x"]
)
def test_redirects_stay_in_their_scheme_and_on_this_machine(
    server: Server, models: Path, capsys: pytest.CaptureFixture[str], path: str, to: str
) -> None:
    server.answers[path] = redirect(to)
    assert pull(server.address) == 3
    assert "refused" in capsys.readouterr().err
    assert inside(models) == []


def test_redirects_end(server: Server, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.answers["index.json"] = redirect(f"{server.address}/index.json")
    assert pull(server.address) == 3
    assert len(server.asked) < 12
    server.answers["index.json"] = redirect(f"{server.address}/shelf")
    server.answers["shelf"] = plain((server.root / "index.json").read_bytes())
    assert pull(server.address) == 0


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (plain(b"", 404), 3, "a folder that holds index.json, as `models push` writes it"),
        (plain(b"", 403), 3, "permission"),
        (plain(b"", 503), 5, "give the same command again later"),  # nothing came that could be kept
        (plain(b" " * (5 << 20)), 3, "/index.json: larger than 4194304 bytes"),
        (plain(b"", Content_Encoding="gzip"), 3, "came compressed"),
    ],
)
def test_an_index_that_does_not_come(
    server: Server, models: Path, capsys: pytest.CaptureFixture[str], answer, code: int, message: str
) -> None:
    server.answers["index.json"] = answer
    assert pull(server.address) == code
    told = capsys.readouterr().err
    assert message in told
    assert f"{server.address}/index.json" in told
    assert inside(models) == []


def test_no_server(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pull("http://127.0.0.1:1") == 5
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/models", "ftp://example.org", "https://", "https://me:secret@example.org/", "file:///tmp",
        "https://example.org/?a=b", "https://example.org/#a", "http://127.0.0.1.example.org/", "https://a\nb/",
        "https://example.org:99999/", "http://[::1/", "hf://models", "hf://a/b/c", "hf://a/b@../c", "hf://a/b?x",
    ],
)  # fmt: skip
def test_addresses_that_are_not_asked(address: str) -> None:
    with pytest.raises(UsageError) as told:
        open_remote(address)
    assert "secret" not in str(told.value)


def test_addresses_that_are_asked() -> None:
    for address in ("https://example.org/a", "http://localhost:8000", "http://127.0.0.2/x", "http://[::1]:80/"):
        require_address(address)


def test_names_that_are_taken(
    shop: Path, tiny_bundle: Bundle, other: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pull(shop, "--name", "phantom") == 2
    assert "is the name of a shipped bundle" in capsys.readouterr().err
    for wrong in (("--name", "../phantom"), ("--sha256", "abc")):
        assert pull(shop, *wrong) == 2
        assert f"{wrong[0]}: {wrong[1]!r} must " in capsys.readouterr().err
    assert main(["models", "push", str(tiny_bundle.path), "--to", str(shop), "--name", "A"]) == 2
    assert main(["models", "pull", "huge", "--from", str(shop)]) == 2
    assert "has no model 'huge'; it has tiny" in capsys.readouterr().err
    shutil.copytree(other, models / "tiny")
    assert pull(shop) == 2
    assert "is another bundle of that name" in capsys.readouterr().err
    (models / "tiny" / "decoder.onnx").write_bytes(b"")
    assert pull(shop) == 2
    assert "remove this folder to pull the model again" in capsys.readouterr().err
    before = content(shop)
    assert main(["models", "push", str(other), "--to", str(shop), "--name", "tiny"]) == 2
    assert "has another model 'tiny'" in capsys.readouterr().err
    assert main(["models", "push", str(tiny_bundle.path), "--to", str(shop), "--name", "tiny"]) == 0
    assert "was there" in capsys.readouterr().out
    assert content(shop) == before


def test_two_pulls_of_one_name(shop: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models.mkdir()
    held = lock_file(os.open(models / ".tiny.lock", os.O_RDWR | os.O_CREAT), models / ".tiny.lock")
    try:
        assert pull(shop) == 2
        assert f"{models}: another pull of 'tiny' is under way" in capsys.readouterr().err
    finally:
        held.release()
    assert pull(shop) == 0


def test_a_full_disk_can_be_gone_on_with(
    shop: Path, models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from sbldm.engine.locked_files import LockedFile

    append = LockedFile.append

    def full(file: LockedFile, data: bytes) -> None:
        if file.name.endswith("decoder.onnx"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(LockedFile, "append", full)
        assert pull(shop) == 5
    assert "make room" in capsys.readouterr().err
    assert not (models / "tiny").exists()
    assert pull(shop) == 0


def test_what_cannot_be_pushed(
    tiny_bundle: Bundle, tmp_path: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = Path(shutil.copytree(tiny_bundle.path, tmp_path / "damaged"))
    (damaged / "decoder.onnx").write_bytes(b"")
    assert main(["models", "push", str(damaged), "--to", str(tmp_path / "new")]) == 3
    assert not (tmp_path / "new").exists()
    assert main(["models", "push", str(tiny_bundle.path), "--to", server.address]) == 2
    assert "is read only" in capsys.readouterr().err


def test_a_push_that_breaks_leaves_nothing(shop: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = inside(shop)

    def broken(*_: object) -> None:
        raise InvalidInputError("broken")

    with monkeypatch.context() as patch:
        patch.setattr("sbldm.engine.hub.directory.load_bundle", broken)
        assert main(["models", "push", str(other), "--to", str(shop)]) == 3
    assert inside(shop) == before
    assert main(["models", "push", str(other), "--to", str(shop)]) == 0
    index = parse_index((shop / "index.json").read_bytes(), "index.json")
    assert sorted(index) == ["another", "tiny"]


def test_a_signature_travels_with_its_model(
    shop: Path, tiny_bundle: Bundle, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("model_signing")
    signed = Path(shutil.copytree(tiny_bundle.path, tmp_path / "signed"))
    for name in ("mine", "other"):
        write_pair(tmp_path, name)
    assert pull(shop, "--require-signature", str(tmp_path / "mine.pub")) == 3
    assert "model.sig" in capsys.readouterr().err
    assert inside(models) == []
    assert main(["bundle", "sign", str(signed), "--key", str(tmp_path / "mine.pem")]) == 0
    assert main(["models", "push", str(signed), "--to", str(shop), "--name", "tiny"]) == 0  # the signature is new
    capsys.readouterr()
    assert pull(shop, "--require-signature", str(tmp_path / "other.pub")) == 3
    assert inside(models) == []
    with serving(shop) as over_http:
        assert pull(over_http.address, "--require-signature", str(tmp_path / "mine.pub")) == 0
    assert content(models / "tiny") == content(signed)
    assert main(["models", "push", str(models / "tiny"), "--to", str(tmp_path / "second"), "--name", "tiny"]) == 0
    assert content(tmp_path / "second" / "tiny") == content(signed)
    forged = json.loads((shop / "index.json").read_text())
    forged["models"]["tiny"]["signature"]["bytes"] = 1 << 40
    with pytest.raises(InvalidInputError, match="a signature has at most"):
        parse_index(json.dumps(forged).encode(), "index.json")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A hub with the empty repository me/models."""
    constants = pytest.importorskip("huggingface_hub.constants")
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub", HubHandler) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield found


def test_a_hugging_face_repository(
    hub: Server, tiny_bundle: Bundle, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remote = "hf://me/models"
    assert list(open_remote(remote).offer().models) == []
    push = ["models", "push", str(tiny_bundle.path), "--to", remote, "--name", "tiny"]
    assert main(push) == 0
    assert content(hub.root / "tiny") == content(tiny_bundle.path)
    assert list(open_remote(remote).offer().models) == ["tiny"]
    capsys.readouterr()
    assert main(push) == 0
    assert "was there" in capsys.readouterr().out
    hub.tokens.clear()
    assert pull(remote) == 0
    assert content(models / "tiny") == content(tiny_bundle.path)
    assert "Bearer hf_secret" in hub.tokens
    assert {token for token in hub.tokens if token and token.startswith("storage")} == {"storage: None"}


def test_a_hugging_face_repository_that_is_changed_or_not_there(
    hub: Server, tiny_bundle: Bundle, models: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["models", "push", str(tiny_bundle.path), "--to", "hf://me/other"]) == 2
    assert "is not there, or you may not see it" in capsys.readouterr().err
    assert main(["models", "push", str(tiny_bundle.path), "--to", "hf://me/models", "--name", "tiny"]) == 0
    (hub.root / "tiny" / "decoder.onnx").write_bytes(b"changed")
    assert pull("hf://me/models") == 3
    assert inside(models) == []
    commits = iter(["a" * 40] + ["b" * 40] * 9)
    monkeypatch.setattr(HubHandler, "_commit", lambda _: next(commits))
    assert main(["models", "push", str(tiny_bundle.path), "--to", "hf://me/models", "--name", "two"]) == 5
    assert "push again" in capsys.readouterr().err
    monkeypatch.setenv("HF_ENDPOINT", "http://huggingface.example")
    assert pull("hf://me/models") == 2
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert pull("hf://me/models") == 5
    assert "http://127.0.0.1:1 cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    "asked", [("push", "phantom", "--to", ""), ("list", "--from", ""), ("pull", "x", "--from", "")]
)
def test_an_empty_remote_is_not_the_folder_one_stands_in(
    asked: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["models", *asked]) == 2
    assert "is empty; give a directory" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
