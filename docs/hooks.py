"""What `mkdocs build` makes beside the pages of docs/: notebooks, CHANGELOG and its like as pages, and llms.txt."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from jinja2 import Environment
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_FENCES = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#.*$|<!--.*?-->", re.MULTILINE)
_LIST_UNDER_TEXT = re.compile(r"^(?![-*|>#\s]|\d+\. )(.+)\n(?=(?:[-*]|1\.) )", re.MULTILINE)
_PAGE_LINK = re.compile(r"\]\(\.\./\.\./docs/")
_NOTEBOOK_LINK = re.compile(r"\]\(\.\./((?:\.\./)*)examples/(notebooks/\w+)\.ipynb\)")
_ROOT_LINK = re.compile(r"\]\(\.\./((?:\.\./)*)(CHANGELOG|CONTRIBUTING|SECURITY|NOTICE)(?:\.md)?\)")
_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Pages whose source lies outside of docs/."""
    for notebook in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")):
        pictures: dict[str, bytes] = {}
        text = "\n\n".join(_blocks(nbformat.read(notebook, as_version=4), notebook.stem, pictures))
        text = _PAGE_LINK.sub("](../", text).replace(".ipynb)", ".md)")
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, f"{name.lower()}.md", content=text))
    errors = (ROOT / "cli" / "errors.md").read_text(encoding="utf-8")  # shipped: `explain` prints it
    files.append(File.generated(config, "errors.md", content=errors))
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    notice = f"# Notice\n\nWhat others made, and its terms.\n\n```text\n{notice}```\n"
    files.append(File.generated(config, "notice.md", content=notice))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """What holds on GitHub holds here: lists right under a paragraph, links to what lies outside of docs/."""
    linked = _ROOT_LINK.sub(lambda link: f"]({link[1]}{link[2].lower()}.md)", markdown)
    parts = _FENCES.split(_NOTEBOOK_LINK.sub(r"](\1\2.md)", linked))
    return "".join(part if part.startswith("```") else _LIST_UNDER_TEXT.sub(r"\1\n\n", part) for part in parts)


def on_env(env: Environment, config: MkDocsConfig, files: Files) -> None:
    """llms.txt: every page with its first sentence, for programs that read the site (llmstxt.org)."""
    pages = [file.page for file in files.documentation_pages() if file.page]
    text = "\n".join(_index(pages, config)) + "\n"
    files.append(File.generated(config, "llms.txt", content=text))


def _blocks(book: nbformat.NotebookNode, name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """A notebook as Markdown, what its cells gave included; puts its pictures into `pictures`."""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            yield cell.source
            continue
        shell = cell.source.startswith("%%bash\n")
        yield f"```bash\n{cell.source.removeprefix('%%bash')}\n```" if shell else f"```python\n{cell.source}\n```"
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                picture = f"{name}_{len(pictures)}.png"
                pictures[picture] = base64.b64decode(data["image/png"])
                yield f"![What the cell above shows]({picture})"
            elif text := output.get("text") or data.get("text/plain"):
                yield f"```text\n{text.rstrip()}\n```"


def _index(pages: list[Page], config: MkDocsConfig) -> Iterator[str]:
    yield f"# {config.site_name}\n\n> {config.site_description}.\n"
    section = None
    page = next((page for page in pages if page.is_homepage), None)
    while page:
        if page.parent and page.parent.title != section:
            section = page.parent.title
            yield f"\n## {section}\n"
        yield f"- [{page.title}]({page.url}): {_first_sentence(page.markdown or '')}"
        page = page.next_page


def _first_sentence(markdown: str) -> str:
    prose = _HEADING.sub("\n\n", _FENCES.sub("\n\n", markdown))
    paragraph = next((part for part in prose.split("\n\n") if re.match(r"\s*[A-Za-z`]", part)), "")
    return re.split(r"(?<=\.)\s|:$", _LINK.sub(r"\1", " ".join(paragraph.split())))[0]
