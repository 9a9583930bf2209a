"""docs/api.md is what the docstrings say."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_written_from_the_docstrings_as_they_are() -> None:
    """Where this fails: `python docs/make_api.py`."""
    assert (DOCS / "api.md").read_text(encoding="utf-8") == runpy.run_path(str(DOCS / "make_api.py"))["page"]()
