"""What a screen shows: text from outside, sizes, counts."""

from __future__ import annotations

import re

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    """Text whose control characters, which a terminal would obey, are spelled out: an escape becomes \\x1b.

    Line ends and tabs stay; characters that turn the direction of writing round, and lone surrogates, do not.
    """
    return _UNSAFE.sub(lambda found: ascii(found.group())[1:-1], text)


def size_text(size: int) -> str:
    """Bytes as people say them: 812 bytes, 4.2 kB, 25.5 MB, 1.3 GB."""
    if size < 1000:
        return counted(size, "byte")
    for unit, scale in (("kB", 1e3), ("MB", 1e6)):
        if size < 999.95 * scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 1e9:.1f} GB"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 sample, 2 samples."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
