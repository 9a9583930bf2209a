"""The run's bundle, where it can be found, and its model card as HTML that can do nothing."""

from __future__ import annotations

from markdown_it import MarkdownIt
from markupsafe import Markup

from ..bundle.load import Bundle, bundle_directory, load_bundle
from ..bundle.store import MANIFEST_NAME, pulled_bundles, shipped_bundles
from ..errors import InvalidInputError, UsageError
from ..files import sha256_file
from ..folder import Folder
from ..run.description import RunDescription

CARD_NAME = "README.md"
MAX_CARD_BYTES = 1 << 20
_LINKS_AND_HTML = ["link", "autolink", "image", "html_inline", "html_block", "reference", "entity"]


def find_bundle(run: RunDescription, given: str | None) -> Bundle | None:
    """The bundle of a run: `given` (a name or a path), else a shipped or a pulled one; None where it is not at hand.

    Raises:
        UsageError: the one that was given is not the run's.
        InvalidInputError: it is no bundle.
    """
    if given is not None:
        bundle = load_bundle(given)
        if bundle.sha256 != run.bundle.sha256:
            raise UsageError(
                f"--bundle {given}: is {bundle.manifest.id} ({bundle.sha256[:12]}), the run was made with "
                f"{run.bundle.id} ({run.bundle.sha256[:12]})"
            )
        return bundle
    known = (bundle_directory(name) for name in (*shipped_bundles(), *pulled_bundles()))
    fitting = next((path for path in known if sha256_file(path / MANIFEST_NAME) == run.bundle.sha256), None)
    return None if fitting is None else load_bundle(fitting)


def model_card(bundle: Bundle) -> Markup | None:
    """The model card as HTML; links, pictures and HTML of its own stay text. None where the bundle has none.

    Raises:
        InvalidInputError: it is too large or no text.
        OSError: it cannot be read.
    """
    if CARD_NAME not in bundle.manifest.files:
        return None
    with Folder(bundle.path) as folder:
        data = folder.read(CARD_NAME, MAX_CARD_BYTES)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{bundle.path / CARD_NAME}: no text in UTF-8") from error
    return card_html(text)


def card_html(text: str) -> Markup:
    """Markdown as HTML, its headings two levels lower, without anything that a reader could follow or run."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(_LINKS_AND_HTML)
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(int(token.tag[1:]) + 2, 6)}"
        token.attrs = {}  # alignment of cells comes as a style, which the page does not allow
    return Markup(parser.renderer.render(tokens, parser.options, {}))
