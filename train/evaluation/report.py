"""Figures as JSON, and as cells and tables of Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.files import write_atomic

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows under a head; `title` stands above it where a section has several."""

    head: Row
    rows: Sequence[Row]
    title: str = ""


def plain(value: Any) -> Any:
    """The same data with every number JSON can hold; what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """Write all figures; equal figures give equal bytes."""
    write_atomic(path, (json.dumps(plain(figures), indent=1, allow_nan=False) + "\n").encode())


def section(title: str, tables: Sequence[Table], text: str = "") -> str:
    """A section of the second level; empty where no table has a row."""
    filled = [_table(table) for table in tables if table.rows]
    parts = [f"## {title}", *([text] if text else []), *filled]
    return "\n\n".join(parts) if filled else ""


def _table(table: Table) -> str:
    lines = [table.head, *table.rows]
    widths = [max(len(row[k]) for row in lines) for k in range(len(table.head))]
    shown = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in lines]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    above = [f"**{table.title}**", ""] if table.title else []
    return "\n".join([*above, shown[0], rule, *shown[1:]])


def show(value: Any, digits: int = 3) -> str:
    """A number in few digits, a dash for none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.{digits}g}" if abs(value) < 10 else f"{value:.1f}"


def interval(found: Mapping[str, Any] | None) -> str:
    """A figure with its 95 % interval."""
    if found is None or found["value"] is None:
        return "-"
    if found["low"] is None:
        return show(found["value"])
    return f"{show(found['value'])} ({show(found['low'])} to {show(found['high'])})"
