"""Text from outside as a screen may show it."""

from __future__ import annotations

import re

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    """Text whose control characters, which a terminal would obey, are spelled out: an escape becomes \\x1b.

    Line ends and tabs stay; characters that turn the direction of writing round, and lone surrogates, do not.
    """
    return _UNSAFE.sub(lambda found: ascii(found.group())[1:-1], text)
