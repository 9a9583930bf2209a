"""`sbldm-engine models`: which models are here, which a remote has; bring one, or give one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._commands import Command, Group, RequireSignature, bundles

if TYPE_CHECKING:
    from ..engine.bundle.load import Bundle

app = typer.Typer(cls=Group, no_args_is_help=True, add_completion=False, help="List, pull and push models.")

_REMOTE = "DIRECTORY, https://HOST/PATH or hf://OWNER/REPOSITORY[@REVISION]"
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list", cls=Command)
def list_models(
    remote: Annotated[str | None, typer.Option("--from", metavar="REMOTE", help=f"List those of {_REMOTE}.")] = None,
    as_json: Json = False,
) -> None:
    """List the models that a name is enough for here, or those of a remote; without --from no network is used."""
    from dataclasses import asdict

    from ..engine.hub.index import require_any
    from ..engine.hub.local import local_offers
    from ..engine.hub.open_remote import open_remote
    from ..engine.screen import size_text
    from ._scans import escaped

    offers = local_offers() if remote is None else {None: open_remote(remote).offer()}
    require_any(offers.values())
    rows: list[dict[str, Any]] = [
        {"name": name, **asdict(model), "where": str(folder / name) if folder else remote}
        for folder, offer in offers.items()
        for name, model in sorted(offer.models.items())
    ]
    broken = [fault for offer in offers.values() for fault in offer.broken.values()]
    for fault in broken:
        typer.echo(escaped(f"warning: {fault}"), err=True)
    if as_json:
        typer.echo(json.dumps({"models": rows}, indent=1))
        return
    for row in rows:
        text = f"{row['name']:<20} {size_text(row['bytes']):>11}  {row['form']:<10} {row['licence']}"
        signed = ", signed" if row["signature"] else ""
        typer.echo(escaped(f"{text}{signed}\n{'':<20} {row['id']}, sha256 {row['sha256']}, {row['where']}"))
    if not rows:
        typer.echo(f"{remote}: no models", err=True)


@app.command(cls=Command)
def pull(
    name: Annotated[str, typer.Argument(help="Model, as `models list --from REMOTE` shows it.")],
    remote: Annotated[str, typer.Option("--from", metavar="REMOTE", help=_REMOTE)],
    sha256: Annotated[str | None, typer.Option(help="What its bundle.json must hash to, known from elsewhere.")] = None,
    own_name: Annotated[str | None, typer.Option("--name", help="Name for this machine (default: the same).")] = None,
    require_signature: RequireSignature = None,
    as_json: Json = False,
) -> None:
    """Bring a model to this machine, every byte hashed; then `--bundle NAME` finds it. What broke off is continued."""
    from ..engine.hub.pull import pull as pull_model

    def tell(message: str) -> None:
        typer.echo(message, err=True)

    pulled = pull_model(name, remote, sha256, own_name, require_signature, tell)
    _tell(pulled.name, pulled.bundle, str(pulled.bundle.path), "was here" if pulled.was_here else "pulled", as_json)


@app.command(cls=Command)
def push(
    bundle: Annotated[str, typer.Argument(help="Bundle: a path or a name.", autocompletion=bundles)],
    remote: Annotated[str, typer.Option("--to", metavar="REMOTE", help="DIRECTORY or hf://OWNER/REPOSITORY.")],
    name: Annotated[str | None, typer.Option(help="Its name there (default: the bundle's id).")] = None,
    require_signature: RequireSignature = None,
    as_json: Json = False,
) -> None:
    """Add a model to a directory, which any web server can offer, or to a Hugging Face repository that exists."""
    from ..engine.hub.push import push as push_model

    given, pushed, is_new = push_model(bundle, remote, name, require_signature)
    _tell(given, pushed, remote, "pushed" if is_new else "was there", as_json)


def _tell(name: str, bundle: Bundle, where: str, what: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"name": name, "sha256": bundle.sha256, "where": where, "done": what}))
    else:
        typer.echo(f"{name}: {what}, {bundle.manifest.id}, sha256 {bundle.sha256}\n{where}")
