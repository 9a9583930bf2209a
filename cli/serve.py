"""`sbldm-engine serve`: jobs over HTTP, for programs on this machine or behind a hospital's gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._commands import bundles

_BOUNDS = "Bounds"


def serve(
    jobs: Annotated[Path, typer.Option("--jobs", help="Directory of the jobs: new, empty, or that of a service.")],
    host: Annotated[str, typer.Option("--host", help="IP address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8765,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", help="File of clients and sha256 of their tokens; without it one, in --jobs/token."),
    ] = None,
    bundle: Annotated[
        list[str] | None,
        typer.Option("--bundle", help="Model to offer, name or path; may be repeated.", autocompletion=bundles),
    ] = None,
    at_once: Annotated[int, typer.Option("--at-once", help="Jobs that run at once.", rich_help_panel=_BOUNDS)] = 1,
    threads: Annotated[
        int | None, typer.Option("--threads", help="CPU threads a job; default: all.", rich_help_panel=_BOUNDS)
    ] = None,
    queue: Annotated[int, typer.Option("--queue", help="Jobs that may wait.", rich_help_panel=_BOUNDS)] = 100,
    max_samples: Annotated[
        int, typer.Option("--max-samples", help="Samples a job may have.", rich_help_panel=_BOUNDS)
    ] = 1000,
    max_upload: Annotated[
        float, typer.Option("--max-upload", help="Of a file, in MB.", rich_help_panel=_BOUNDS)
    ] = 128.0,
    quota: Annotated[float, typer.Option("--quota", help="Of a client, in GB.", rich_help_panel=_BOUNDS)] = 50.0,
    keep: Annotated[
        float, typer.Option("--keep", help="Days that a job is kept after its end.", rich_help_panel=_BOUNDS)
    ] = 30.0,
) -> int:
    """Take jobs over HTTP: loopback and a token unless told otherwise. What was begun goes on after any end."""
    from ..engine.errors import BackendUnavailableError

    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise BackendUnavailableError('serve needs FastAPI and uvicorn: pip install "sbldm-engine[serve]"') from error
    from ..engine.service.server import run_server
    from ..engine.service.service import Service
    from ..engine.service.settings import GIGABYTE, MEGABYTE, Settings
    from ..engine.service.tokens import TOKEN_NAME

    settings = Settings(
        jobs=jobs, host=host, port=port, tokens=tokens, bundles=tuple(bundle or ("phantom",)), at_once=at_once,
        threads=threads, queue=queue, samples=max_samples, upload_bytes=int(max_upload * MEGABYTE),
        client_bytes=int(quota * GIGABYTE), keep_s=keep * 86400,
    )  # fmt: skip
    with Service(settings) as service:

        def listening(address: str, bound: int) -> None:
            place = str(settings.tokens or jobs / TOKEN_NAME)
            service.logs.event("listening", address=address, port=bound, tokens=place, page="/docs")
            if not settings.is_local:
                service.logs.event(
                    "listening beyond this machine, unencrypted: put a gateway with TLS before", "warning"
                )

        run_server(service, listening)
    return 0
