"""Options of every command that reads scans or masks."""

from __future__ import annotations

from typing import Annotated

import typer

Labels = Annotated[
    str | None,
    typer.Option("--labels", help='What a mask\'s numbers mean: "necrosis=1,oedema=2,enhancing=3[,cavity=4]".'),
]
Cavity = Annotated[
    str, typer.Option("--cavity", help="A resection cavity counts as background or necrosis, or is refused (refuse).")
]
Orientation = Annotated[
    str | None,
    typer.Option("--orientation", help="sform, qform or RAS: what counts where a header is silent or contradicts."),
]


def escaped(text: str) -> str:
    """Text from outside as it may be printed: no control characters."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
