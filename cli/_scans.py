"""Options of every command that reads scans or masks."""

from __future__ import annotations

from typing import Annotated

import typer

from ._commands import choices

_PANEL = "Scans and masks that are read"

Labels = Annotated[
    str | None,
    typer.Option(
        "--labels",
        help='What a mask\'s numbers mean: "necrosis=1,oedema=2,enhancing=3[,cavity=4]".',
        rich_help_panel=_PANEL,
    ),
]
Cavity = Annotated[
    str,
    typer.Option(
        "--cavity",
        help="What a resection cavity counts as.",
        rich_help_panel=_PANEL,
        **choices("background", "necrosis", "refuse"),
    ),
]
Orientation = Annotated[
    str | None,
    typer.Option(
        "--orientation",
        help="What counts where a header is silent or contradicts itself.",
        rich_help_panel=_PANEL,
        **choices("sform", "qform", "RAS"),
    ),
]

Map = Annotated[
    str | None,
    typer.Option(
        "--map",
        help="DICOM: which series is which, by number or UID, where headers do not tell: t1=3,t1ce=7,seg=9.",
        metavar="MODALITY=SERIES,...",
        rich_help_panel=_PANEL,
    ),
]


def escaped(text: str) -> str:
    """Text from outside as it may be printed: no control characters."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
