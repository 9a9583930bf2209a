"""`sbldm-engine bundle`: who stands behind a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._commands import Command, Group, bundles

if TYPE_CHECKING:
    from ..engine.bundle.load import Bundle
    from ..engine.bundle.signature import Signer

app = typer.Typer(cls=Group, no_args_is_help=True, add_completion=False, help="Sign a bundle, or verify its signature.")

BundleArgument = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="A path, or a shipped name.", autocompletion=bundles)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]


@app.command(cls=Command)
def sign(
    bundle: BundleArgument,
    key: Annotated[Path, typer.Option("--key", help="Private key of a curve: PEM, not encrypted.")],
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="Of this key: others then trust its issuer, not the key.")
    ] = None,
    chain: Annotated[
        list[Path] | None, typer.Option("--chain", help="Certificates up to the issuer whom others trust; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sign all files of a bundle (OpenSSF model-signing, no network); the signature is its file model.sig."""
    from ..engine.bundle.load import load_bundle
    from ..engine.bundle.sign import sign_bundle
    from ..engine.errors import UsageError

    if chain and certificate is None:
        raise UsageError("--chain: belongs to --certificate")
    loaded = load_bundle(bundle)
    _tell("signed", loaded, sign_bundle(loaded, key, certificate, chain or ()), as_json)


@app.command(cls=Command)
def verify(
    bundle: BundleArgument,
    key: Annotated[
        Path, typer.Option("--key", help="PEM file: the signer's public key, or a certificate of who issued theirs.")
    ],
    as_json: AsJson = False,
) -> None:
    """Verify every file of a bundle and who signed them; exit code 3 where something is not as it was signed."""
    from ..engine.bundle.load import load_bundle

    loaded = load_bundle(bundle, key)
    if loaded.signer is not None:
        _tell("verified", loaded, loaded.signer, as_json)


def _tell(done: str, bundle: Bundle, signer: Signer, as_json: bool) -> None:
    import dataclasses
    import json

    from ..engine.screen import counted, shown

    files, name = len(bundle.hashes), bundle.manifest.id
    if as_json:
        about = {"bundle": str(bundle.path), "id": name, "sha256": bundle.sha256, "files": files}
        typer.echo(json.dumps({**about, "signer": dataclasses.asdict(signer)}))
    else:
        typer.echo(shown(f"{bundle.path}: {done}, {name} ({bundle.sha256[:12]}), {counted(files, 'file')}, {signer}"))
