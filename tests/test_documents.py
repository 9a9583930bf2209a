"""Documents name files that exist, and commands that the command line takes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from sbldm.cli.main import app, completed

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
FLOORS = "benchmarks|cli|engine|export|kernels|tests|train|docs|examples"


def words(document: Path) -> str:
    """The text of a page or a notebook; cells of code as blocks of code, as on the page."""
    text = document.read_text(encoding="utf-8")
    if document.suffix != ".ipynb":
        return text
    cells = [("".join(cell["source"]), cell["cell_type"]) for cell in json.loads(text)["cells"]]
    return "\n".join(f"```\n{source}\n```" if kind == "code" else source for source, kind in cells)


@pytest.mark.parametrize(
    "document",
    [*PAGES, *NOTEBOOKS],
    ids=lambda d: d.name,
)
def test_files_that_are_named_exist(document: Path) -> None:
    text = words(document)
    named = re.findall(rf"`((?:{FLOORS})/[\w/.-]*)`", text)
    linked = re.findall(r"\]\(((?!https?:|#)[^)#]+)", text)
    missing = [name for name in named if not (ROOT / name).exists()]
    assert missing + [name for name in linked if not (document.parent / name).exists()] == []


def test_every_room_is_in_the_architecture_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [folder.parent.name for folder in (ROOT / "engine").glob("*/__init__.py")]
    assert rooms
    assert [room for room in rooms if f"`engine/{room}/`" not in page] == []


def test_files_in_the_picture_exist() -> None:
    text = (ROOT / "docs" / "pictures" / "architecture.svg").read_text(encoding="utf-8")
    words = " ".join(re.findall(r">([^<>]+)</text>", text)).split()
    folder, missing = ROOT, []
    for word in words:
        if re.fullmatch(rf"(?:{FLOORS})/[\w/]*", word):
            folder = ROOT / word
            missing += [] if folder.exists() else [word]
        elif word.endswith(".py"):
            file = ROOT / word if "/" in word else folder / word
            folder = file.parent
            missing += [] if file.exists() else [str(file)]
    assert missing == []


def commands(document: Path) -> list[list[str]]:
    """Every `sbldm-engine ...` in the code of a document: its arguments, optional ones in brackets left out."""
    code = re.findall(r"^```(?:bash|console)?\n(.*?)^```", words(document), re.MULTILINE | re.DOTALL)
    lines = "\n".join(code).replace("\\\n", " ").splitlines()
    found = [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("sbldm-engine ")]
    plain = [re.sub(r"\[[^\]]*\]|\s\d?>>?\s*\S+", "", command) for command in found]
    split = [shlex.split(command, comments=True)[1:] for command in plain]
    numbers = [["1" if argument in ("N", "S") else argument for argument in arguments] for arguments in split]
    return [completed(arguments) for arguments in numbers if not arguments[0].startswith("-")]


@pytest.mark.parametrize("document", [*PAGES, *NOTEBOOKS], ids=lambda d: d.name)
def test_commands_are_understood(document: Path) -> None:
    for arguments in commands(document):
        command: Any = typer.main.get_command(app)
        context, name, rest = None, "sbldm-engine", arguments
        while hasattr(command, "get_command"):  # a group of commands
            context = command.make_context(name, rest[:1], parent=context)
            name, rest = rest[0], rest[1:]
            command = command.get_command(context, name)
            assert command is not None, arguments
        assert command.make_context(name, rest, parent=context)


def test_commands_are_found_where_they_are() -> None:
    found = {document.name: [line[0] for line in commands(document)] for document in (*PAGES, *NOTEBOOKS)}
    assert found["bulk.md"].count("generate") == 3
    assert "measure" in commands(ROOT / "docs" / "conditions.md")[1]
    assert "generate" in found["own_cohort_to_nnunet.ipynb"]
