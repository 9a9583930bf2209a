"""Documents name files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = "benchmarks|cli|engine|export|kernels|tests|train|docs|examples"


@pytest.mark.parametrize(
    "document",
    [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"],
    ids=lambda d: d.name,
)
def test_files_that_are_named_exist(document: Path) -> None:
    named = re.findall(rf"`((?:{FLOORS})/[\w/.-]*)`", document.read_text(encoding="utf-8"))
    linked = re.findall(r"\]\(((?!https?:|#)[^)#]+)", document.read_text(encoding="utf-8"))
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
