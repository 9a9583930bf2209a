"""Every error ends with a code, and every code is explained without a network."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sbldm.cli import _codes
from sbldm.cli.main import main
from sbldm.engine.bundle.load import Bundle

ROOT = Path(__file__).parents[2]
BESIDE_ERRORS = {"system", "interrupted", "unexpected"}  # codes of what is no error of ours


def faulty_table(folder: Path) -> None:
    (folder / "cond.csv").write_text("volume_ml\n-5\n")


def used_folder(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "notes.txt").write_text("mine")


ASKED: list[tuple[str, str, Callable[[Path], None] | None]] = [
    ("conditions check cond.csv --bundle BUNDLE", "conditions", faulty_table),
    ("generate --bundle BUNDLE --conditions cond.csv --out new", "conditions", faulty_table),
    ("generate --bundle BUNDLE --count 0 --out new", "options", None),
    ("generate --bundle BUNDLE --count 1 --out out", "run", used_folder),
    ("generate --bundle nowhere --count 1 --out new", "bundle", None),
    ("generate --bundle BUNDLE --count 1 --out new --backend nothing", "backend", None),
    ("data check nowhere", "scans", None),
    ("augment nowhere --bundle BUNDLE --count 1 --out new", "scans", None),
    ("models list --from nowhere", "models", None),
    ("report nowhere", "run", None),
    ("explain nothing", "options", None),
]


@pytest.mark.parametrize(("command", "code", "prepare"), ASKED, ids=[command for command, _, _ in ASKED])
def test_an_error_ends_with_its_code(
    command: str, code: str, prepare, tiny_bundle: Bundle, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    if prepare is not None:
        prepare(tmp_path)
    assert main(command.replace("BUNDLE", str(tiny_bundle.path)).split()) in (2, 3, 4)
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert told.endswith(f"\nmore: sbldm-engine explain {code}\n")
    assert main(["explain", code]) == 0
    assert capsys.readouterr().out.strip() == _codes.sections()[code]


def test_a_collector_gets_the_code_as_a_field(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    asked = ["generate", "--bundle", str(tiny_bundle.path), "--count", "0", "--out", str(tmp_path / "new")]
    assert main([*asked, "--log-format", "json"]) == 2
    assert json.loads(capsys.readouterr().err)["explain"] == "options"


def test_every_code_has_a_section_and_every_section_a_code(capsys) -> None:
    assert {*_codes.CODES.values()} | BESIDE_ERRORS == _codes.sections().keys()
    assert main(["explain"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(_codes.sections())
    for text in _codes.sections().values():
        assert re.search(r"\(docs/[\w/]+\.md", text), text
        assert all((ROOT / page).exists() for page in re.findall(r"\((docs/[\w/]+\.md)", text))


def test_every_module_is_of_a_part_that_has_a_code() -> None:
    """A new room gets a section: nothing but the top of the engine falls to what is left."""
    rooms = [path.parent for path in (ROOT / "engine").glob("*/__init__.py")]
    without = {"anatomy", "output", "sampling"}  # raise what options are refused with
    known = {start.split(".")[1] for start in _codes.CODES if start.startswith("engine.")}
    assert {room.name for room in rooms} - known - without == set()
