"""`bundle sign` and `bundle verify`, and `--require-signature` wherever a bundle is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import sbldm
import typer
from sbldm.cli.main import COMMANDS, app, main
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.errors import InvalidInputError, UsageError

from tests.support.keys import write_pair
from tests.support.schemas import held_to

FETCHED = {"models pull"}  # its bundle is an argument of another name
UNSIGNED = {"report"}  # shows the card of a bundle whose hash the run recorded; nothing of it is run


@pytest.fixture
def folder(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """bundle, signed by mine.pem; mine.pub, other.pub."""
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    write_pair(tmp_path, "mine")
    write_pair(tmp_path, "other")
    assert main(["bundle", "sign", str(tmp_path / "bundle"), "--key", str(tmp_path / "mine.pem")]) == 0
    return tmp_path


def test_sign_and_verify_tell_who(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "sign", str(folder / "bundle"), "--key", str(folder / "mine.pem")]) == 0
    signed = capsys.readouterr().out
    assert main(["bundle", "verify", str(folder / "bundle"), "--key", str(folder / "mine.pub")]) == 0
    assert capsys.readouterr().out == signed.replace("signed", "verified")
    assert main(["bundle", "verify", str(folder / "bundle"), "--key", str(folder / "mine.pub"), "--json"]) == 0
    signed_by = held_to("bundle-verify", capsys.readouterr().out)
    assert signed_by["signer"]["sha256"] in signed
    assert signed_by["files"] == len(list((folder / "bundle").iterdir())) - 1


def test_exit_codes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify = ["bundle", "verify", str(folder / "bundle"), "--key"]
    assert main([*verify, str(folder / "other.pub")]) == 3
    assert "another key" in capsys.readouterr().err
    assert main([*verify, str(folder / "mine.pem")]) == 2
    assert "private key" in capsys.readouterr().err
    assert main([*verify[:2], str(folder / "none"), "--key", str(folder / "mine.pub")]) == 3
    assert main(["bundle", "sign", str(folder / "bundle"), "--key", str(folder / "mine.pub")]) == 2
    assert main([*verify[:1], "sign", str(folder / "bundle"), "--key", "x", "--chain", "y"]) == 2
    (folder / "bundle" / "README.md").write_text("changed")
    assert main([*verify, str(folder / "mine.pub")]) == 3
    assert "README.md" in capsys.readouterr().err


def test_generate_refuses_before_anything_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "run"
    wanted = [
        "generate",
        "--bundle",
        str(folder / "bundle"),
        "--count",
        "1",
        "--steps",
        "1",
        "--threads",
        "1",
        "--quiet",
    ]
    wanted += ["--out", str(out), "--require-signature"]
    assert main([*wanted, str(folder / "other.pub")]) == 3
    assert not out.exists()
    assert main([*wanted, str(folder / "mine.pub")]) == 0
    assert (out / "manifest.csv").is_file()
    (folder / "bundle" / "model.sig").unlink()
    assert main([*wanted, str(folder / "mine.pub"), "--resume"]) == 3
    assert "nobody signed" in capsys.readouterr().err


def test_the_environment_can_require_it_of_every_command(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBLDM_REQUIRE_SIGNATURE", str(folder / "other.pub"))
    assert main(["inspect", str(folder / "bundle")]) == 3
    assert main(["conditions", "sample", "--count", "1"]) == 3  # the shipped one is not signed
    monkeypatch.setenv("SBLDM_REQUIRE_SIGNATURE", str(folder / "mine.pub"))
    assert main(["inspect", str(folder / "bundle")]) == 0


def commands(group: object, name: str = ""):  # every (name, command)
    context = typer.Context(group)  # type: ignore[arg-type]
    for word in group.list_commands(context):  # type: ignore[attr-defined]
        command = group.get_command(context, word)  # type: ignore[attr-defined]
        yield from commands(command, f"{word} ") if hasattr(command, "list_commands") else [(name + word, command)]


def test_every_command_that_takes_a_bundle_can_require_its_signature() -> None:
    found = {
        name: {parameter.name for parameter in command.params}
        for name, command in commands(typer.main.get_command(app))
    }
    assert len(found) > len(COMMANDS)
    taking = {name for name, names in found.items() if "bundle" in names and not name.startswith("bundle ")}
    assert (taking | FETCHED) - UNSIGNED == {name for name, names in found.items() if "require_signature" in names}


def test_the_python_interface_requires_it_too(folder: Path) -> None:
    with sbldm.load(folder / "bundle", require_signature=folder / "mine.pub", threads=1) as generator:
        assert generator.bundle.signer is not None
    with pytest.raises(InvalidInputError, match="another key"):
        sbldm.load(folder / "bundle", require_signature=folder / "other.pub", threads=1)
    with pytest.raises(UsageError, match="require_signature 5: must be a path"):
        sbldm.load(folder / "bundle", require_signature=5, threads=1)  # type: ignore[arg-type]
