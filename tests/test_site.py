"""The documentation as a site: strict, of itself alone, listed for programs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("material")
pytest.importorskip("nbformat")

from mkdocs.commands import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[1]
LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?([^"'\s>]+)|<link[^>]*\shref=["']?([^"'\s>]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `mkdocs build --strict` does: a page outside of the navigation, a dead link or anchor ends it."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        build.build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    loaded = [(page.name, one or other) for page in pages for one, other in LOADED.findall(page.read_text("utf-8"))]
    assert len(loaded) > len(pages)
    assert [place for place in loaded if re.match(r"(?:https?:)?//", place[1])] == []


def test_programs_find_every_page(site: Path) -> None:
    listed = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): \S", (site / "llms.txt").read_text("utf-8"), re.MULTILINE)
    pages = {page.relative_to(site).as_posix() for page in site.rglob("*.html")} - {"404.html"}
    assert sorted(listed) == sorted(pages)
    assert "tutorials/bulk.html" in pages


def test_notebooks_are_pages_with_what_they_showed(site: Path) -> None:
    for notebook in (ROOT / "examples" / "notebooks").glob("*.ipynb"):
        page = (site / "notebooks" / f"{notebook.stem}.html").read_text("utf-8")
        pictures = re.findall(r'<img[^>]*src="([^"]+)"', page)
        assert pictures
        assert all((site / "notebooks" / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_lists_under_a_paragraph_are_lists(site: Path) -> None:
    """model.md and training.md have them, as GitHub draws them."""
    assert "<li>The slice position" in (site / "training.html").read_text("utf-8")
