"""What reports and the studio's page load: the viewer, its style and its licences."""

from __future__ import annotations

from functools import cache
from pathlib import Path

NIIVUE_VERSION = "0.69.0"
NIIVUE = f"niivue-{NIIVUE_VERSION}.umd.js"


@cache
def asset(name: str) -> str:
    """Text of a file that comes with the page."""
    return (Path(__file__).parent / "assets" / name).read_text("utf-8")
