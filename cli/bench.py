"""`sbldm-engine bench`: throughput and quality of a bundle on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._commands import RequireSignature, bundles

if TYPE_CHECKING:
    from ..benchmarks.bench import BenchResult
    from ..engine.bundle.load import Bundle
    from ..engine.sampling.types import Backend


def bench(
    bundle: Annotated[str, typer.Option(help="Shipped bundle's name, or a path.", autocompletion=bundles)] = "phantom",
    require_signature: RequireSignature = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:I.")] = "cpu",
    backends: Annotated[
        str | None,
        typer.Option(
            help="NAME or NAME:PRECISION, by commas; default: onnxruntime, and openvino or tensorrt if installed."
        ),
    ] = None,
    steps: Annotated[str, typer.Option(help="Denoising steps, by commas.")] = "5,10,20,50",
    samplers: Annotated[
        str | None,
        typer.Option(
            help="By commas; default: all of the bundle. fitted has its own steps.", metavar="[ddim,dpmpp-2m,fitted]"
        ),
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes, by commas.")] = "1",
    volumes: Annotated[int, typer.Option(help="Volumes of a timed run; quality is a median over them.")] = 3,
    repeats: Annotated[int, typer.Option(help="Timed runs of each point.")] = 3,
    reference_steps: Annotated[int, typer.Option(help="Steps that quality is told against.")] = 250,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all.")] = None,
    select: Annotated[bool, typer.Option("--select", help="Keep the fastest choice for --backend auto.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Also write that object to this file.")] = None,
    submit: Annotated[
        Path | None,
        typer.Option(
            "--submit",
            help="New file for docs/results.md: machine, command and figures, no names of people, hosts or paths.",
        ),
    ] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Picture of quality against speed.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> int:
    """Measure throughput and quality on this machine; with --json the result is one object on stdout."""
    from ..benchmarks.bench import measure, start
    from ..benchmarks.plan import make_plan, open_backends
    from ..benchmarks.plot import require_matplotlib
    from ..benchmarks.submission import require_new
    from ..engine.bundle.load import load_bundle
    from ..engine.errors import SbldmError, UsageError

    for path in (out, plot_file):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{path}: its folder does not exist")
        if path is not None and path.exists() and not path.is_file():
            raise UsageError(f"{path}: is no regular file; name another")
    if submit is not None:
        require_new(submit)
        if submit in (out, plot_file):
            raise UsageError(f"--submit {submit}: another output has this name; give a new one")
    if select and device != "cpu":
        raise UsageError("--select: on a GPU no clock chooses, --backend auto is onnxruntime; leave --select out")
    if plot_file is not None:
        require_matplotlib()
    loaded = load_bundle(bundle, require_signature)
    plan = make_plan(
        loaded, device=device, backends=backends, steps=steps, samplers=samplers, batches=batch,
        volumes=volumes, repeats=repeats, reference_steps=reference_steps, threads=threads,
    )  # fmt: skip
    opened = open_backends(loaded, plan)
    result = start(loaded, plan)
    code = 0
    try:
        measure(loaded, opened, result, (lambda _: None) if quiet else lambda text: typer.echo(text, err=True))
    except KeyboardInterrupt:
        code = 130
    except SbldmError as error:
        if result.components:
            _write(result, error.exit_code, as_json, out, plot_file)
        raise
    if select and result.complete:
        _select(loaded, opened, result)
    try:
        _write(result, code, as_json, out, plot_file)
    finally:
        if submit is not None:
            _submit(loaded, bundle, result, submit)
    return code


def _select(bundle: Bundle, backends: dict[str, Backend], result: BenchResult) -> None:
    from ..benchmarks.choice import choose
    from ..engine.backends.selection import store_choice

    if any(figure.timing.busy for figure in result.components):
        typer.echo("nothing kept for --backend auto: the machine was busy, measure again when it is quiet", err=True)
        return
    choice = choose(bundle, backends, result)
    path = store_choice(bundle, next(iter(backends.values())).threads, choice)
    typer.echo(f"--backend auto now takes {choice.backend} {choice.precision} for this bundle ({path})", err=True)


def _submit(bundle: Bundle, name: str, result: BenchResult, path: Path) -> None:
    import json

    from ..benchmarks.submission import submission, write_new

    if not result.complete:
        typer.echo(f"nothing written to {path}: the benchmark was interrupted", err=True)
        return
    data = submission(result, bundle, name)
    write_new(path, f"{json.dumps(data, indent=1, allow_nan=False)}\n".encode())
    samples = data["samples"]
    busy = f"; {samples['busy']} of {samples['taken']} samples were busy, and it says so" if samples["busy"] else ""
    typer.echo(f"{path}: look through it, then give it to benchmarks/results{busy}", err=True)


def _write(result: BenchResult, code: int, as_json: bool, out: Path | None, plot_file: Path | None) -> None:
    """Print a result with the exit code that the command ends with, and write its files."""
    import json

    from ..benchmarks.plot import plot
    from ..benchmarks.report import tables
    from ..engine.errors import UsageError
    from ..engine.files import write_atomic

    line = json.dumps({**result.to_json(), "exit_code": code}, allow_nan=False)
    typer.echo(line if as_json else tables(result))
    try:
        if out is not None:
            write_atomic(out, f"{line}\n".encode())
        if plot_file is not None:
            plot(result, plot_file)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write the result: {error}") from error
