"""`sbldm-engine explain`: what is behind the code of an error, without a network."""

from __future__ import annotations

import difflib
from typing import Annotated

import typer

from ._codes import sections
from ._commands import offered


def explain(
    code: Annotated[
        str | None,
        typer.Argument(
            help="Code, as errors end with it; without one all are listed.", autocompletion=offered(tuple(sections()))
        ),
    ] = None,
) -> None:
    """Print what is behind the code of an error; the same stands on the page Errors of the documentation."""
    from ..engine.errors import UsageError

    known = sections()
    if code is None:
        for name, text in known.items():
            typer.echo(f"{name:<12} {text.partition(':')[0].partition('.')[0]}")
        return
    if code not in known:
        near = difflib.get_close_matches(code, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"explain {code}: no such code; {hint}there are {', '.join(known)}")
    typer.echo(known[code])
