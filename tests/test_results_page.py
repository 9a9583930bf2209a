"""docs/results.md is what the submissions in benchmarks/results say, and those are as their schema says."""

from __future__ import annotations

import runpy
from pathlib import Path

from tests.support.schemas import held_to

ROOT = Path(__file__).parents[1]
MAKE = runpy.run_path(str(ROOT / "docs" / "make_results.py"))


def test_the_page_is_written_from_the_submissions_as_they_are() -> None:
    """Where this fails: `python docs/make_results.py`."""
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == MAKE["page"]()


def test_every_submission_is_as_its_schema_says() -> None:
    for name in MAKE["submissions"](MAKE["RESULTS"]):
        held_to("bench-submission", (MAKE["RESULTS"] / name).read_text(encoding="utf-8"))
