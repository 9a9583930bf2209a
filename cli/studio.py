"""`sbldm-engine studio`: a page on this machine that makes volumes while conditions are changed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Annotated

import typer

from ._commands import RequireSignature, bundles, choices

if TYPE_CHECKING:
    from ..engine.telemetry import EventLog


def studio(
    bundle: Annotated[str, typer.Option("--bundle", help="Model: name or path.", autocompletion=bundles)] = "phantom",
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.")] = 8766,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address and open nothing.")] = False,
    require_signature: RequireSignature = None,
    backend: Annotated[
        str, typer.Option("--backend", help="Who computes.", **choices("auto", "onnxruntime", "openvino", "tensorrt"))
    ] = "auto",
    device: Annotated[
        str, typer.Option("--device", help="Where.", **choices("auto", "cpu", "cuda", "cuda:I"))
    ] = "auto",
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads; default: all.")] = None,
) -> int:
    """Open a page on this machine: volumes from conditions, live; own masks and scans; nothing is uploaded anywhere."""
    from importlib.util import find_spec

    from ..engine.errors import BackendUnavailableError
    from ..engine.telemetry import EventLog

    if find_spec("fastapi") is None or find_spec("uvicorn") is None:
        raise BackendUnavailableError('studio needs FastAPI and uvicorn: pip install "sbldm-engine[serve]"')
    from ..engine.generator import Generator
    from ..engine.studio.studio import Studio

    log = EventLog("text")

    def opened(address: str) -> None:
        typer.echo(address)
        if not no_browser:
            threading.Thread(target=_open, args=(address, log), name="browser", daemon=True).start()
        log.event("the page is open to whoever has the address, on this machine alone; Ctrl-C ends it")

    generator = Generator.load(
        bundle, require_signature=require_signature, backend=backend, device=device, threads=threads
    )
    with Studio(generator) as opened_studio:
        opened_studio.warm()
        from ..engine.studio.serve import run_studio  # takes as long as a tenth of the first volume

        run_studio(opened_studio, port, opened, log)
    return 0


def _open(address: str, log: EventLog) -> None:
    """Open a browser; text browsers are waited for, and are answered meanwhile."""
    import webbrowser

    try:
        opened = webbrowser.open(address)
    except webbrowser.Error:
        opened = False
    if not opened:
        log.event("no browser can be opened here; open the address above, it holds the token", "warning")
