"""Commands as Typer makes them, with what people expect of a command line: `-h`, no type beside a flag, completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

HELP = {"help_option_names": ["--help", "-h"]}
"""Context settings of the outermost command; commands inherit them."""


class _Parameters:
    """Help shows no `<bool>` beside an option that takes no value; a line that a shell completes is not converted."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, `--help` too."""
        parameters = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if isinstance(parameter, TyperOption) and parameter.is_flag:
                parameter.metavar = ""
            if ctx.resilient_parsing:
                parameter.process_value = _as_typed  # Typer's takes 0.1 s to import
        return parameters


def _as_typed(ctx: Any, value: Any) -> Any:
    return value


class Command(_Parameters, TyperCommand):
    """A command."""


class Group(_Parameters, TyperGroup):
    """A command of commands."""


PRECISIONS = ("auto", "fp32", "tf32", "fp16", "bf16")


def choices(*words: str) -> dict[str, Any]:
    """Arguments of `typer.Option` for an option that takes one of these words: shown in the help, offered to the shell.

    What is no such word is refused where the option is used, beside all else that is wrong with the line.
    """
    return {"metavar": f"[{'|'.join(words)}]", "autocompletion": offered(words)}


def offered(words: Sequence[str]) -> Callable[[str], list[str]]:
    """What a shell is offered of `words`."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def bundles(incomplete: str) -> list[str]:
    """Names of the shipped and the pulled bundles."""
    from ..engine.bundle.store import pulled_bundles, shipped_bundles

    return [name for name in (*shipped_bundles(), *pulled_bundles()) if name.startswith(incomplete)]


def signature_option(panel: str | None = None) -> Any:
    """Option of every command that loads a bundle: who must have signed it."""
    return typer.Option(
        "--require-signature",
        metavar="KEY",
        envvar="SBLDM_REQUIRE_SIGNATURE",
        help="PEM file of the key, or of the issuer's certificate, that must have signed the bundle.",
        rich_help_panel=panel,
    )


RequireSignature = Annotated[Path | None, signature_option()]
