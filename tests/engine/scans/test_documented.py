from __future__ import annotations

from pathlib import Path

from sbldm.engine.scans.documented import BEGIN, END, with_conventions
from sbldm.engine.scans.names import CONVENTIONS

DOCS = Path(__file__).resolve().parents[3] / "docs" / "data.md"


def test_the_tables_of_conventions_are_current() -> None:
    text = DOCS.read_text("utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert with_conventions(text) == text, "run: python -m sbldm.engine.scans.documented docs/data.md"
    assert all(convention.title in text for convention in CONVENTIONS)
