"""The notebooks run as they are, and still show what they are kept with."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("torch")

import nbformat

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def shown(book: Any) -> list[list[object]]:
    """What each cell gave: its words, numbers left out, and the kinds of what is no text."""
    return [[_words(output) for output in cell.get("outputs", [])] for cell in book.cells]


def _words(output: Any) -> object:
    data = output.get("data", {})
    text = output.get("text") or data.get("text/plain", "")
    return sorted(data), " ".join(re.sub(r"[\d.]+", "#", text).split())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_what_it_is_kept_with(notebook: Path, tmp_path: Path, monkeypatch) -> None:
    """Where only what is shown differs: `python docs/make_notebooks.py`."""
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    work = tmp_path / "work"
    work.mkdir()
    made = runpy.run_path(str(ROOT / "docs" / "make_notebooks.py"))["executed"](notebook, work)
    assert shown(made) == shown(nbformat.read(notebook, as_version=4))


def test_both_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["first_volumes", "own_cohort_to_nnunet"]
