"""Every `--json` has a schema in docs, and what is printed is held to each of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from sbldm.cli.main import app, main
from sbldm.engine.bundle.load import Bundle

from tests.support.keys import write_pair
from tests.support.schemas import SCHEMAS, held_to, schema

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `([a-z ]+(?: --submit)?)` \| \[schema\]\(schemas/([a-z-]+)\.schema\.json\) \|", re.MULTILINE)


def commands_with_json(command: Any, words: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command of the program that takes `--json`."""
    if hasattr(command, "list_commands"):
        context = command.make_context("x", [], resilient_parsing=True)
        for name in command.list_commands(context):
            yield from commands_with_json(command.get_command(context, name), (*words, name))
    elif any("--json" in parameter.opts for parameter in command.params):
        yield " ".join(words)


def test_every_command_with_json_has_a_schema_and_no_other() -> None:
    rows = ROW.findall((ROOT / "docs" / "json.md").read_text(encoding="utf-8"))
    printing = sorted(command for command, _ in rows if "--" not in command)
    assert printing == sorted(commands_with_json(typer.main.get_command(app)))
    files = {path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.schema.json")}
    assert {name for _, name in rows} == files
    for name in files:
        assert schema(name).schema["title"]


def test_something_is_held_to_every_schema() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    files = {path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.schema.json")}
    assert set(re.findall(r'held_to\("([a-z-]+)"', sources)) == files


def test_what_is_missing_or_new_is_no_such_output() -> None:
    whole = '{"out": "o", "samples": 2, "linked": 0, "copied": 10}'
    held_to("merge", whole)
    for other in (whole.replace('"copied": 10', '"more": 1, "copied": 10'), '{"out": "o"}', whole.replace("2", "-2")):
        with pytest.raises(AssertionError):
            held_to("merge", other)


def test_models_and_signatures(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SBLDM_MODELS", str(tmp_path / "mine"))
    write_pair(tmp_path, "key")
    signed = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    assert main(["bundle", "sign", str(signed), "--key", str(tmp_path / "key.pem"), "--json"]) == 0
    assert held_to("bundle-sign", capsys.readouterr().out)["signer"]["kind"] == "key"
    shop = str(tmp_path / "shop")
    for done in ("pushed", "was there"):
        assert main(["models", "push", str(signed), "--to", shop, "--name", "one", "--json"]) == 0
        assert held_to("models-push", capsys.readouterr().out)["done"] == done
    for done in ("pulled", "was here"):
        assert main(["models", "pull", "one", "--from", shop, "--json"]) == 0
        assert held_to("models-pull", capsys.readouterr().out)["done"] == done
    assert main(["models", "list", "--json"]) == 0
    names = [model["name"] for model in held_to("models-list", capsys.readouterr().out)["models"]]
    assert "one" in names
