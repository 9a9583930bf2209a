"""The page and its parts, compressed once: HTML, style, scripts of its own, and the report's viewer."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from ..report.viewer import NIIVUE, asset

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy: what this address gives, and nothing from anywhere else."""
_HERE = Path(__file__).parent / "assets"
_KINDS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".txt": "text/plain"}


@dataclass(frozen=True)
class Asset:
    """A part of the page."""

    kind: str
    packed: bytes  # gzip


def page() -> Asset:
    """The HTML."""
    return _own("studio.html")


@cache
def _own(name: str) -> Asset:
    return _packed(name, (_HERE / name).read_bytes())


@cache
def _report(name: str) -> Asset:
    return _packed(name, asset(name).encode())


def _packed(name: str, data: bytes) -> Asset:
    return Asset(f"{_KINDS[Path(name).suffix]}; charset=utf-8", gzip.compress(data, 6, mtime=0))


VIEWER = (NIIVUE, "viewer.js", "report.css", "niivue-LICENSES.txt")
"""What the page shares with reports."""
ASSETS: dict[str, Callable[[], Asset]] = {
    **{path.name: partial(_own, path.name) for path in sorted(_HERE.glob("*.*")) if path.suffix != ".html"},
    **{("niivue.js" if name == NIIVUE else name): partial(_report, name) for name in VIEWER},
}
"""Name of an address below /assets -> what lies there."""
