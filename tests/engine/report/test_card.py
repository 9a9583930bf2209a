"""A model card is text from outside: on the page it can show, not act."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sbldm.engine.report.card import card_html

PLAIN = {
    "p", "h3", "h4", "h5", "h6", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "em",
    "strong", "blockquote", "hr", "br",
}  # fmt: skip
HOSTILE = [
    "<script>alert(1)</script>", "[x](javascript:alert(1))", "![x](http://host/pixel.png)", "<http://host/>",
    '<img src=x onerror="alert(1)">', "[a]: http://host\n\n[a]", "&lt;script&gt;", "<svg/onload=alert(1)>",
    "|a|\n|:-:|\n|b|", "```js\nalert(1)\n```", "# <b onclick=x>title</b>",
]  # fmt: skip


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, list]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.seen.append((tag, attrs))


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_to_run_or_to_follow(text: str) -> None:
    for tag, attributes in Tags(card_html(text)).seen:
        assert tag in PLAIN
        assert attributes == [] or tag == "code"


@given(st.lists(st.sampled_from([*HOSTILE, "\n", "\n\n", " ", "`", "*", "|", ">", "- "]) | st.text(), max_size=12))
def test_any_text(parts: list[str]) -> None:
    for tag, attributes in Tags(card_html("".join(parts))).seen:
        assert tag in PLAIN
        assert {name for name, _ in attributes} <= {"class"}


def test_headings_tables_and_lists_are_shown() -> None:
    html = card_html("# Name\n\n## Use\n\n- one\n\n| a | b |\n| --- | ---: |\n| 1 | 2 |\n")
    assert "<h3>Name</h3>" in html
    assert "<h4>Use</h4>" in html
    assert "<li>one</li>" in html
    assert "<td>2</td>" in html
